"""Define the commands of the terminal, a function each."""
