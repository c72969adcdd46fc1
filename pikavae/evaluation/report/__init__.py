"""Writes the report of an evaluation: its files, its table, its panels, the model card."""
