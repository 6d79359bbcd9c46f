"""The ledger's file: how it is made, and what is checked before anything is written to it."""

import os
import secrets
import sqlite3
from contextlib import suppress
from pathlib import Path

from recipes.errors import InvalidInputError, StillhouseError
from recipes.rundir import sync_folder

SCHEMA_VERSION = 1
"""Raised with every change that an older stillhouse could misread."""

_APPLICATION_ID = 0x5354494C
"""`STIL`: how SQLite tells our files from others'."""

_MAGIC = b"SQLite format 3\x00"

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE entries (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    at     REAL NOT NULL,
    kind   TEXT NOT NULL,
    once   TEXT,
    data   TEXT NOT NULL,
    UNIQUE (run_id, once)
) STRICT;
CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_are_not_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class LedgerError(StillhouseError):
    """The ledger could not be read or written. What it says already is safe."""


def open_database(path: Path, patience_s: float) -> sqlite3.Connection:
    """A connection to the ledger at `path`; made, with mode 600, where there is none.

    Args:
        patience_s: how long to wait for another process that is writing [s].

    Raises:
        InvalidInputError: what stands there is no ledger, or is of a newer stillhouse.
        LedgerError: it cannot be made.
        sqlite3.DatabaseError: SQLite cannot open it.
    """
    if not path.exists():
        _create(path)
    _check_is_database(path)
    db = _connect(path, patience_s)
    try:
        _check_is_ours(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path, patience_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=patience_s,
        isolation_level=None,
        check_same_thread=False,
    )
    db.execute("PRAGMA synchronous = FULL")
    return db


def _create(path: Path) -> None:
    """Make it aside and link it into place: whole or not at all, whoever else does the same."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        db = _connect(aside, patience_s=0)
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
        db.close()
        with suppress(FileExistsError):
            os.link(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be made: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _check_is_database(path: Path) -> None:
    """Before SQLite touches it: it would take an empty file for a new database."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise InvalidInputError(
            f"the ledger {path} cannot be read: {error.strerror}. Nothing was changed"
        ) from error
    if magic != _MAGIC:
        raise InvalidInputError(
            f"{path} is no ledger, nor any database. Nothing was changed in it; move it away"
        )


def _check_is_ours(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise InvalidInputError(
            f"{path} is a database of something else. Nothing was changed in it; move it away"
        )
    if version > SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path} was written by a newer stillhouse (ledger version {version}; this one knows "
            f"{SCHEMA_VERSION}). Nothing was changed; update stillhouse"
        )
