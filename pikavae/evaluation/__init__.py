"""Measures how good a model is: metrics, baselines, panels, and the report that holds them."""
