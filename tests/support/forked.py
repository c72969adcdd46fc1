"""Functions that run in forked processes: see `tests.support.forking`."""

import os
import sys
import time
from pathlib import Path

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare
from pikavae.data.shards import make
from pikavae.training import journal, loop, memory, processes, worker  # noqa: F401


def train(folder, output, environment, working_directory):
    """Become what `supervision.start_worker` starts."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment | {worker.PARENT: str(os.getppid())})
    os.chdir(working_directory)
    time.tzset()
    with Path(output).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [worker.__file__, str(folder)]
    sys.exit(worker.main())


def prepare_in_small_shards(source, root):
    """Prepare a folder of pictures, 16 to a shard."""
    make.MAX_PICTURES = 16
    prepare(DataConfig(source=str(source), image_size=32, workers=2), root)
