"""Locks production: one promotion, rollback or repair at a time in this home and, if possible, in the store.

A file in the home excludes other processes of this home. Homes that share a PostgreSQL store use an advisory lock
there; homes that share an SQLite file use a lock beside it. All these locks end with their holder. An MLflow server
offers no lock: there only the ledger's head shows that a second home writes (see `anchor`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pikavae.errors import PikavaeError
from pikavae.workspace.files import exclusive

logger = logging.getLogger(__name__)

ADVISORY_KEY = 0x70696B61766165  # "pikavae" as a number, which PostgreSQL requires
WAITING = "waiting for another promotion, rollback or repair"


@contextmanager
def production_lock(home: Path, tracking_uri: str) -> Iterator[None]:
    """Wait until the lock is free, and hold it for the block.

    Args:
        home: the absolute folder that holds all state.
        tracking_uri: the address of the MLflow store.

    Raises:
        PikavaeError: the database of the store cannot be reached.
    """
    with exclusive(home / "production.lock", waiting=WAITING), _store_lock(home, tracking_uri):
        yield


@contextmanager
def _store_lock(home: Path, tracking_uri: str) -> Iterator[None]:
    from sqlalchemy import make_url

    if tracking_uri.startswith(("http://", "https://")):
        yield
        return
    address = make_url(tracking_uri)
    if address.get_backend_name() == "postgresql":
        with _advisory_lock(tracking_uri):
            yield
    elif address.get_backend_name() == "sqlite" and address.database and Path(address.database).parent != home:
        with exclusive(Path(f"{address.database}.production.lock"), waiting=WAITING):
            yield
    else:
        yield


@contextmanager
def _advisory_lock(tracking_uri: str) -> Iterator[None]:
    """Hold a lock of the database's session. It ends with the connection, however that ends."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    engine = create_engine(tracking_uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    key = {"key": ADVISORY_KEY}
    try:
        connection = engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise PikavaeError(f"MLflow store {engine.url.render_as_string()}: {reason}") from None
    with connection:
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key):
            logger.info(WAITING)
            connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
        yield
