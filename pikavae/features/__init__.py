"""Compute features of pictures by published networks, and read the files of their weights."""
