"""Prefect flows, and the terminal that starts them."""
