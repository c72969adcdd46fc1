"""Turns a source of captioned pictures into a prepared, immutable data set."""
