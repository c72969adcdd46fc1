"""Prepare a process's environment, run servers for it, and handle the signals that end it."""
