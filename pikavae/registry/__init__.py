"""From a snapshot and its report to a registered version that any MLflow client loads."""
