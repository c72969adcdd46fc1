"""Define the errors that pikavae raises on purpose, each with the exit status of the terminal's command."""

from collections.abc import Mapping
from typing import Any


class PikavaeError(Exception):
    """Reports something that pikavae could not do. The message is one line that says what, where and what to do."""

    exit_status = 1
    result: Mapping[str, Any] = {}
    """The result that `--json` prints despite the error."""


class UserError(PikavaeError):
    """Reports a mistake of the user. The message names the field or file, the value and the remedy."""

    exit_status = 2


class OtherSizesError(UserError):
    """Reports weights of other sizes than section `model` has."""

    def __init__(self, message: str, sizes: Mapping[str, tuple[Any, Any]]) -> None:
        """Keep the message, and of each size that differs the weights' and the required one, by name."""
        super().__init__(message)
        self.sizes = sizes


class GateError(PikavaeError):
    """Reports a gate that refused or a missing approval; nothing was moved. The message has a line for each reason."""

    exit_status = 3

    def __init__(self, message: str, result: Mapping[str, Any] | None = None) -> None:
        """Keep the message, and the result that `--json` prints."""
        super().__init__(message)
        self.result = dict(result or {})


class NonFiniteLossError(PikavaeError):
    """Reports a NaN or infinite loss; the optimizer step was not taken and the last checkpoint is whole."""


class DisagreementError(PikavaeError):
    """Reports that production differs from its ledger. The message has a line for each difference."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        """Keep the message, and the result that `--json` prints."""
        super().__init__(message)
        self.result = result


class DiskError(PikavaeError):
    """Reports a full, broken or missing disk, or a folder removed in use. Once it is fixed, the same command works."""


class DamagedFileError(PikavaeError):
    """Reports that a file that pikavae wrote is missing, cut short or altered."""


class TransientError(PikavaeError):
    """Reports something that may pass, such as a server that does not answer: another try may work."""


class BusyError(PikavaeError):
    """Reports that another process works on the same thing and must end first."""


class PreemptedError(PikavaeError):
    """Reports that training was told to stop and saved its state: the same command resumes it."""

    exit_status = 75


class PrunedError(PreemptedError):
    """Reports that a sweep stopped a training because others had better scores. Its state is saved."""
