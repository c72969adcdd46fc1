"""Find the one folder that holds all state.

mlflow.db, artifacts/     runs, pictures and models, as MLflow keeps them
prepared/<fingerprint>/   prepared data sets, immutable
prepared/shards/          the shards that they share
runs/<run id>/            what a run needs to resume, and its snapshots
imported/<key>/           weights of other makers, as snapshots
evaluations/<key>/        reports
notify.yaml, outbox/      whom to tell of what; what is to be sent, and what arrived
prefect/                  Prefect's own state, unless PREFECT_HOME or PREFECT_API_URL is set
"""

from __future__ import annotations

import os
from pathlib import Path

from pikavae.errors import UserError


def home() -> Path:
    """Return PIKAVAE_HOME as an absolute path, or the checkout's `mlruns/`, in any working directory.

    Raises:
        UserError: pikavae was installed without a checkout and the variable is not set, or no database can lie in the
            folder.
    """
    named = os.environ.get("PIKAVAE_HOME")
    if named:
        folder = expand_user(named, "PIKAVAE_HOME")
        try:
            folder = folder.resolve()
        except (OSError, RuntimeError):  # a link that leads back to itself, or a disk that is gone
            folder = folder.absolute()  # reported when it is used
        require_database_name(folder, "PIKAVAE_HOME")
        return folder
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        raise UserError(
            "PIKAVAE_HOME: not set, and pikavae does not run from a checkout; set it to the folder for all state"
        )
    require_database_name(checkout, "the checkout")
    return checkout / "mlruns"


def expand_user(path: str | Path, what: str) -> Path:
    """Return a path with the folder of a user instead of `~` or `~name`; `what` names the path in the message.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{what} {str(path)!r}: there is no user of this name; write the whole path") from None


def require_database_name(folder: Path, what: str) -> None:
    """Check that a database in `folder` has a valid address; `what` names the folder in messages.

    Raises:
        UserError: the path is not UTF-8, or has a question mark: the rest would be read as options, and the file would
            be somewhere else.
    """
    shown = str(folder).encode(errors="backslashreplace").decode()
    if "?" in shown:
        raise UserError(
            f"{what} {shown}: its name has a question mark, so no database can be opened there; rename that folder"
        )
    if shown != str(folder):
        raise UserError(
            f"{what} {shown}: its name is not UTF-8, so no database can be opened there; rename that folder"
        )
