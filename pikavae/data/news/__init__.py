"""Find out if a source has new pictures, cheaply at first, and if they are fit to train on."""
