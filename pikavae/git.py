"""The state of the checkout that a run is made with."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path


def git_tags(folder: Path) -> dict[str, str]:
    """The commit of the checkout `folder`, and a hash of what is changed since; nothing when it is no checkout.

    A folder that lies in somebody's checkout without being part of it (an installed package) counts as none.
    """
    if not _git(folder, "ls-tree", "--name-only", "HEAD"):
        return {}
    diff = _git(folder, "diff", "HEAD")
    return {
        "mlflow.source.git.commit": _git(folder, "rev-parse", "HEAD").decode().strip(),
        "pikavae.git.dirty": hashlib.sha256(diff).hexdigest()[:16] if diff else "",
    }


def _git(folder: Path, *arguments: str) -> bytes:
    """Standard output of git in `folder`; nothing when git fails or is not installed."""
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""
