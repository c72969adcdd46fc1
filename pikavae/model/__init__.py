"""Define the autoencoder, fold its training shortcuts, tile large pictures, and write the folders of its weights."""
