"""Keep MLflow, Prefect and a worker running together: `pikavae up`."""
