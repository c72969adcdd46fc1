"""Run the command `pikavae`: the project's own `flows`, in a Python that other tools' variables do not change.

PYTHONPATH may lead to other packages called `flows` or `tasks`, so this module is in pikavae, which imports neither. It
removes the working directory from the path before its other imports, which could find a `random.py` there.
"""

from __future__ import annotations

import os
import sys

AGAIN = "PIKAVAE_STARTED_AGAIN"


def main() -> int:
    """Run one command and return the exit status."""
    try:
        leave_working_directory()
    except FileNotFoundError:
        sys.stderr.write("pikavae: the current folder was deleted; change to another and try again\n")
        return 2
    import importlib

    from pikavae.process.surroundings import NAMES, PYTHON_LEFTOVERS, tidy

    disturbed = any(os.environ.get(name) for name in PYTHON_LEFTOVERS)
    tidy()
    if disturbed and os.environ.pop(AGAIN, None) is None:
        os.environ[AGAIN] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # Python reads them only when it starts
    os.environ.pop(AGAIN, None)
    sys.path.insert(0, str(NAMES))
    status: int = importlib.import_module("flows.cli").main()
    return status


def leave_working_directory() -> None:
    """Remove the working directory from the path of modules, unless pikavae is there.

    Raises:
        FileNotFoundError: the working directory was deleted.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - pathlib imports much
    here = os.path.realpath(os.getcwd())  # noqa: PTH109
    if here != root:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]


if __name__ == "__main__":
    sys.exit(main())
