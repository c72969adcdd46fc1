"""Start Prefect's server, and read and correct its records of runs."""
