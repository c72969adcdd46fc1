"""Decodes, converts, fits and hashes a picture file."""
