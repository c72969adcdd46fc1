"""Turn any name of a model into a snapshot, with its teacher and its scaling."""
