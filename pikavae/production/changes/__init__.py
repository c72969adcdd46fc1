"""Changes the champion, and repairs and verifies what changes left."""
