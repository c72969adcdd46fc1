"""The autoencoder, the fold of its training shortcuts, and the folders that hold its weights."""
