"""Tag runs with the commit of the checkout that made them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from pikavae.tracker.tags import COMMIT_TAG, DIRTY_TAG

OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"}
"""Variables by which git points its hooks, and the programs that they start, to another checkout."""


def git_tags(folder: Path) -> dict[str, str]:
    """Return the commit of the checkout `folder`, and a hash of its uncommitted changes; empty without a checkout.

    A folder that lies in a checkout without being part of it (an installed package) counts as no checkout.
    """
    if not _git(folder, "ls-tree", "--name-only", "HEAD"):
        return {}
    diff = _git(folder, "diff", "HEAD")
    return {
        COMMIT_TAG: _git(folder, "rev-parse", "HEAD").decode().strip(),
        DIRTY_TAG: hashlib.sha256(diff).hexdigest()[:16] if diff else "",
    }


def _git(folder: Path, *arguments: str) -> bytes:
    """Return the standard output of git in `folder`; empty if git fails or is not installed."""
    elsewhere = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], env=elsewhere, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""
