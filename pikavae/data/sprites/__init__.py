"""Draws pikavae's own pictures."""
