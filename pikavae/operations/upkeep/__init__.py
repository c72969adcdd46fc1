"""Keep the state folder in order and its disk free."""
