"""Read a command line, and write the help."""
