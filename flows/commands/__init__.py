"""The commands of the terminal, a function each."""
