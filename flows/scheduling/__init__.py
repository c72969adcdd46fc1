"""Manage deployments and the user's schedules."""
