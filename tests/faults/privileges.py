"""What only root can do to a process and its files: give files away, drop capabilities, end a session."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3
PR_CAPBSET_DROP, CAPABILITIES_3 = 24, 0x20080522


def own_all(folder: Path, user: int) -> None:
    """Give a folder and all in it to a user, readable for the others."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def obey_permissions() -> None:
    """Let this process and those that it starts be no more than a user: without the right to pass over permissions.

    The user stays the same, since an interpreter below root's home would not be readable for another one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    dropped = sum(1 << capability for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER))
    for index in range(3):  # effective, permitted, inheritable
        sets[index] &= ~dropped
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def end_session(leader: int) -> None:
    """Kill what a command that ended or hung has left in its session, servers too."""
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.pid != os.getpid():
                process.kill()
        except (ProcessLookupError, psutil.Error):
            continue
