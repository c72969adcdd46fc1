"""Computes how alike two pictures are and how certain a mean is, with pure functions."""
