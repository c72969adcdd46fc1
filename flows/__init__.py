"""Define Prefect flows and the terminal's commands."""
