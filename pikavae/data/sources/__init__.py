"""Opens sources of pictures and captions."""
