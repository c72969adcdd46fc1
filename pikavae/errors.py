"""Errors that pikavae raises on purpose, each with the exit status that the terminal gives it."""

from collections.abc import Mapping
from typing import Any


class PikavaeError(Exception):
    """Something that pikavae could not do. The message is one line that says what, where and what to do."""

    exit_status = 1
    result: Mapping[str, Any] = {}
    """What `--json` prints all the same."""


class UserError(PikavaeError):
    """A mistake in what the user asked for: the message names the field or file, the value and the remedy."""

    exit_status = 2


class GateError(PikavaeError):
    """A gate refused, or an approval is missing: nothing was moved. The message has a line for each reason."""

    exit_status = 3

    def __init__(self, message: str, result: Mapping[str, Any] | None = None) -> None:
        """The message, and what `--json` prints all the same."""
        super().__init__(message)
        self.result = dict(result or {})


class NonFiniteLossError(PikavaeError):
    """The loss became NaN or infinite; the optimizer step was not taken and the last checkpoint is whole."""


class DisagreementError(PikavaeError):
    """Production is not as its ledger says. The message has a line for each thing that is not."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        """The message, and what `--json` prints all the same."""
        super().__init__(message)
        self.result = result


class DamagedFileError(PikavaeError):
    """A file that pikavae wrote is missing, cut short or altered since."""


class TransientError(PikavaeError):
    """Something that may pass by itself, such as a server that does not answer: worth another try."""


class BusyError(PikavaeError):
    """Another process works on the same thing, and must end first."""


class PreemptedError(PikavaeError):
    """Training was told to stop, and saved what it had: the same command goes on."""

    exit_status = 75
