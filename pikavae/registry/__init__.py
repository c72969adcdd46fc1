"""Makes a snapshot and its report a registered version that any MLflow client loads."""
