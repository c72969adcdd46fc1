"""Makes shards in worker processes and stores them."""
