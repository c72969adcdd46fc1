"""What networks that others trained see in pictures, and the files of their weights."""
