"""Makes the page about a prepared set."""
