"""Reads prepared sets."""
