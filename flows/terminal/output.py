"""Write to standard output and standard error, even to a terminal with few characters or to a closed pipe."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from pikavae.errors import PikavaeError


def use_utf8() -> None:
    """Restart in UTF-8 mode if the locale is ASCII, since names of files could not have other characters."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for child processes
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def tolerate_characters() -> None:
    """Print a question mark for each character that standard output or standard error cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(text: str, stream: TextIO | None) -> None:
    """Print a line without delay. A reader that stops reading, as `head -1` does, is not an error.

    Raises:
        PikavaeError: the line cannot be written, as on a full disk.
    """
    if stream is None:  # closed by the parent process
        return
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        with Path(os.devnull).open("w") as nothing:  # else Python fails again when it flushes the stream at exit
            os.dup2(nothing.fileno(), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PikavaeError(f"standard output: the result cannot be written ({error.strerror})") from None
