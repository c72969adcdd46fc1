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


class Cluster:
    """A cluster in a folder of its own. As root its programs run as `postgres`, since PostgreSQL refuses root."""

    def __init__(self, superuser_password=None):
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="pikavae-postgres-")), free_port()
        self.password = superuser_password
        self.server = None
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:
            self.user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            about = pwd.getpwnam("postgres")
            os.chown(self.folder, about.pw_uid, about.pw_gid)
        access = ["-A", "trust"]
        if superuser_password is not None:
            file = self.folder / "password"
            file.write_text(superuser_password)
            file.chmod(0o644)
            access = ["-A", "scram-sha-256", f"--pwfile={file}"]
        self.run("initdb", "-D", self.folder / "data", "-U", "postgres", "-N", *access)

    @property
    def environment(self):
        """What the clients of PostgreSQL read."""
        about = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres"}
        return {**os.environ, **about, **({} if self.password is None else {"PGPASSWORD": self.password})}

    def run(self, name, *arguments, check=True, **how):
        """Run a program of PostgreSQL as a user who may; its end."""
        command = [program(name), *map(str, arguments)]
        quiet: dict[str, Any] = {"cwd": self.folder, "env": self.environment, **self.user}
        done = subprocess.run(command, check=False, capture_output=True, text=True, **quiet, **how)
        assert not check or done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done

    def sql(self, *statements, database="postgres"):
        """Run statements as superuser; what they print, without headings."""
        return self.run("psql", "-X", "-A", "-t", "-d", database, *(f"-c{one}" for one in statements)).stdout.strip()

    def start(self):
        command = [program("postgres"), "-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        log = (self.folder / "log").open("a")
        with log:
            self.server = subprocess.Popen(
                [*command, "-k", str(self.folder)], stdout=log, stderr=log, cwd=self.folder, **self.user
            )
        while self.run("pg_isready", check=False).returncode:
            assert self.server.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)

    def kill(self):
        """End the server as a power cut would: at once, with all its connections."""
        self.server.kill()
        self.server.wait(30)

    def take(self, file):
        """A copy of another cluster's file, which the programs of this one may read; its path."""
        copy = Path(shutil.copy(file, self.folder))
        copy.chmod(0o644)
        return copy

    def stop(self):
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)  # ends the connections as well
            self.server.wait(30)

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder)


@contextmanager
def postgres_server():
    """The address of an empty database; its server ends with the block."""
    cluster = Cluster()
    try:
        cluster.start()
        yield f"postgresql+psycopg://postgres@127.0.0.1:{cluster.port}/postgres"
    finally:
        cluster.remove()
