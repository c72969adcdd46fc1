"""The one folder that holds all state.

mlflow.db, artifacts/     runs, pictures and models, as MLflow keeps them
prepared/<fingerprint>/   prepared data sets, immutable
prepared/shards/          what they are made of, shared
runs/<run id>/            what a run needs to resume, and its snapshots
imported/<key>/           weights of other makers, as snapshots
evaluations/<key>/        reports
prefect/                  Prefect's own state, unless PREFECT_HOME or PREFECT_API_URL is set
"""

from __future__ import annotations

import os
from pathlib import Path

from pikavae.errors import UserError


def home() -> Path:
    """PIKAVAE_HOME made absolute, or the checkout's `mlruns/`, wherever the working directory is.

    Raises:
        UserError: neither is there: pikavae was installed without a checkout and the variable is not set.
    """
    named = os.environ.get("PIKAVAE_HOME")
    if named:
        return Path(named).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "pyproject.toml").is_file():
        raise UserError(
            "PIKAVAE_HOME: not set, and this is no checkout; set it to the folder that shall hold all state"
        )
    return checkout / "mlruns"
