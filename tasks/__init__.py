"""One thin Prefect task for each stage."""
