"""Makes data sets of latents: encodes, shards and describes them."""
