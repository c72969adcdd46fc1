"""Declare what a command is and takes, and write to the terminal."""
