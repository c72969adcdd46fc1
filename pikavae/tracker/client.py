"""Holds a state folder together with the MLflow store where its runs are recorded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pikavae.errors import DiskError, PikavaeError, TransientError, UserError
from pikavae.process.surroundings import spare_loopback, why_no_answer
from pikavae.tracker.database import make_whole, require_same, stamp_of
from pikavae.tracker.leaderboard import leaderboard
from pikavae.tracker.mlflow_files import quiet_mlflow
from pikavae.tracker.relocation import DATABASE_NAME, moved_from
from pikavae.tracker.tags import NOTE_TAG, VIEW_TAG
from pikavae.workspace.disks import explain
from pikavae.workspace.files import exclusive
from pikavae.workspace.home import home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PROBE_SECONDS = 5.0
PROBE_EVERY_SECONDS = 5.0
"""A server that answered as recently is not asked again before it is used."""

Client: TypeAlias = "MlflowClient"
"""The type of a client of the store; upper layers use this name without importing MLflow."""
MadeVersion: TypeAlias = "ModelVersion"
"""The type of a version as the store returns it."""


class Workspace:
    """Represents a state folder and its MLflow store. It is made once, at the top, and handed down.

    The client is made when it is first needed, and once: work that needs no database never opens it.

    Attributes:
        home: the absolute folder that holds all state.
        tracking_uri: the address of the store: MLFLOW_TRACKING_URI if it is set, else the database in `home`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        own = f"sqlite:///{home / DATABASE_NAME}"
        self.tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or own
        self._is_own = self.tracking_uri == own
        self._client: MlflowClient | None = None
        self._stamp: tuple[int, int] | None = None
        self._probed = -PROBE_EVERY_SECONDS
        self._making = threading.Lock()

    @classmethod
    def open(cls) -> Workspace:
        """Return the workspace that PIKAVAE_HOME names."""
        return cls(home())

    @property
    def server(self) -> str | None:
        """Return the address of the store if it is a server, else None."""
        return self.tracking_uri if self.tracking_uri.startswith(("http://", "https://")) else None

    @property
    def client(self) -> MlflowClient:
        """Return a client of the store. Our own database is made if it is missing.

        Raises:
            UserError: MLflow refuses the address, or our own database was moved and names other files.
            TransientError: nothing answers at the address.
            PikavaeError: the database cannot be used, or was replaced since it was opened.
        """
        with self._making:
            if time.monotonic() - self._probed >= PROBE_EVERY_SECONDS:
                self._probe()
            self.require_same_store()
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> MlflowClient:
        quiet_mlflow()
        spare_loopback(os.environ)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            # Processes that make the same database at the same time would break it for good.
            with exclusive(self.home / "mlflow.lock"):
                if self._is_own:
                    self._open_own()
                client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
                client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, sqlite3.DatabaseError, OSError) as error:
            raise self._translate(error) from error
        return client

    def _open_own(self) -> None:
        """Make our own database ready, and remember which file it is."""
        database = self.home / DATABASE_NAME
        make_whole(database)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # the file keeps this; readers no longer wait for writers
        self._stamp = stamp_of(database)
        if (old := moved_from(self.home)) is not None:
            raise UserError(f"{self.home}: was at {old} before; `pikavae store relocate` makes MLflow find its files")

    def _translate(self, error: Exception) -> Exception:
        """Return the error to raise for one of MLflow, SQLite or the disk when the store was opened."""
        from mlflow.exceptions import MlflowException

        if (explained := explain(error, self.home)) is not None:
            return explained
        said = " ".join(str(getattr(error, "message", error)).split())
        if isinstance(error, MlflowException):
            kind = UserError if error.error_code == "INVALID_PARAMETER_VALUE" else PikavaeError
            return kind(f"MLflow store {self.tracking_uri}: {said}")
        if isinstance(error, OSError):
            return error
        database = self.home / DATABASE_NAME
        return PikavaeError(f"MLflow store {database}: {said[:300]}; restore the file, or move it away")

    def require_same_store(self) -> None:
        """Check that our own database is still the file that was opened, if it was.

        Raises:
            DiskError: it was removed or replaced; MLflow would keep writing to the lost file without an error.
        """
        if self._stamp is not None:
            require_same(self.home / DATABASE_NAME, self._stamp)

    def answers(self) -> bool:
        """Return True if the store can be written to now. MLflow itself would try for minutes to reach a server."""
        try:
            self._probe()
            self.require_same_store()
        except (TransientError, DiskError):
            return False
        return True

    def _probe(self) -> None:
        """Check that a server answers, because MLflow's own retries would take four minutes to give up.

        Raises:
            TransientError: nothing answers at the address.
        """
        if self.server is None:
            return
        spare_loopback(os.environ)
        if (reason := why_no_answer(self.server, PROBE_SECONDS)) is not None:
            raise TransientError(
                f"MLFLOW_TRACKING_URI {self.server}: no answer ({reason}); start that server, or unset the variable"
            )
        self._probed = time.monotonic()

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment `name`, and make it if missing. With SQLite its files go below the home.

        Raises:
            UserError: the experiment was deleted in MLflow and not purged.
        """
        from mlflow.exceptions import MlflowException

        client = self.client
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = None
            if str(client.tracking_uri).startswith("sqlite:"):
                # Without a location, MLflow would use a folder in the working directory.
                readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
                digest = hashlib.sha256(name.encode()).hexdigest()[:8]
                location = (self.home / "artifacts" / f"{readable}-{digest}".lstrip("-")).as_uri()
            note = "Autoencoder runs of pikavae. Compare `val/psnr`; checkpoints are listed under Models."
            try:
                tags = {NOTE_TAG: note, VIEW_TAG: json.dumps(leaderboard())}
                return str(client.create_experiment(name, artifact_location=location, tags=tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)  # another process made it first
        if experiment.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment {name!r}: this experiment was deleted in MLflow; choose another name, or restore "
                f"it with `mlflow experiments restore -x {experiment.experiment_id}`"
            )
        if experiment.tags.get(VIEW_TAG) != json.dumps(leaderboard()):  # an earlier pikavae wrote it
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, json.dumps(leaderboard()))
        return str(experiment.experiment_id)
