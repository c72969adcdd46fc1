"""Wait for what another process does."""

import time


def wait_for(condition, seconds=120):
    """Return once the condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
