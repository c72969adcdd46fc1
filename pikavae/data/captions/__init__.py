"""Finds and reads captions, however they are stored."""
