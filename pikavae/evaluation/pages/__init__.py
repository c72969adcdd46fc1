"""Writes the pages of reports and comparisons."""
