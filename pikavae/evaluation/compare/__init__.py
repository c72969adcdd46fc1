"""Compares models picture by picture."""
