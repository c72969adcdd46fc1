"""Know a stage's result: its inputs and key, its name and description, what it was made from."""
