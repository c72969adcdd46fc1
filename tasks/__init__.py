"""Wrap each stage in one thin Prefect task."""
