"""Runs the smoke test: a fresh process that knows only a registered model's address loads and uses the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pikavae.errors import PikavaeError


def smoke_test(uri: str, tracking_uri: str, *, seconds: float = 600.0) -> dict[str, Any]:
    """Load a model in a fresh process without pickle and without pikavae, and encode and decode with it.

    Two sizes and two batch sizes must come back finite, in [-1, 1] and in the same shape. A second call must give the
    same, and so must a picture alone and in a batch. If diffusers is installed, its result must agree to 0.01.

    Args:
        uri: the model's address, `models:/<name>/<version>`.
        tracking_uri: the MLflow store that knows the model.
        seconds: the time after which the process is ended.

    Returns:
        `manifest`: the SHA-256 of each file that the consumer got, by its path; `means`: the means of the outputs;
        `differs_from_diffusers_by`: the largest difference, None if diffusers is not installed; and the releases
        `python`, `torch` and `mlflow`.

    Raises:
        PikavaeError: the model did not load, or its output is wrong; the message has the last line of the reason.
    """
    consumer = Path(__file__).with_name("consumer.py")
    with tempfile.TemporaryDirectory() as folder:
        try:
            process = subprocess.run(
                [sys.executable, "-I", "-B", str(consumer), uri, folder],
                cwd=folder,
                env=consumer_environment(tracking_uri),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                start_new_session=True,  # a signal to our whole group is for us to handle
            )
        except subprocess.TimeoutExpired:
            raise PikavaeError(f"smoke test of {uri}: not done after {seconds:g} seconds") from None
        if process.returncode != 0:
            reason = (process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1].strip()
            raise PikavaeError(f"smoke test of {uri}: {reason}")
        facts: dict[str, Any] = json.loads(Path(folder, "facts.json").read_text(encoding="utf-8"))
        return facts


def consumer_environment(tracking_uri: str) -> dict[str, str]:
    """Return the environment of a model's user: the store's address, no pickle, no telemetry and no downloads."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("MLFLOW_REGISTRY_URI", None)
    return environment
