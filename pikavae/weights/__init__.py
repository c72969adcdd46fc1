"""Read autoencoders that others published."""
