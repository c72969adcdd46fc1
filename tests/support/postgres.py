"""A real PostgreSQL server for tests: a cluster of its own, in a temporary folder, on 127.0.0.1."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.mlflow_server import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def program(name):
    """Where a program of PostgreSQL is: Debian keeps its server's out of the path."""
    found = shutil.which(name) or (str(BINARIES[-1].with_name(name)) if BINARIES else None)
    assert found, f"{name} is not installed: apt-get install postgresql"
    return found


@contextmanager
def postgres_server():
    """The address of an empty database; its server ends with the block. As root it runs as `postgres`."""
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp(prefix="pikavae-postgres-")), free_port()
    try:
        if user:
            about = pwd.getpwnam("postgres")
            os.chown(folder, about.pw_uid, about.pw_gid)
        quiet: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, **user}
        data = ["-D", str(folder / "data")]
        subprocess.run([program("initdb"), *data, "-U", "postgres", "-A", "trust", "-N"], check=True, **quiet)
        command = [program("postgres"), *data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, **quiet)
        try:
            ready = [program("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready, check=False, **quiet).returncode:
                assert server.poll() is None, "PostgreSQL did not start"
                time.sleep(0.1)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # ends the connections as well
            server.wait(30)
    finally:
        shutil.rmtree(folder)
