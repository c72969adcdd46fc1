"""Reads and writes MLflow's runs, and keeps its database."""
