"""The rows of campaigns in one SQLite file, readable with sqlite3 and pandas alone.

    task      what all rows of a campaign share, by content digest
    variant   one network of a task, by content digest; its clean result
    fault     what was injected, as text and as JSON
    row       one trial: flips, images, correct, agreeing with clean, non-finite outputs, seconds

A row is written once, the moment it is done, in its own transaction (WAL).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from proact.errors import ProactError

APPLICATION_ID = 0x70726163  # "prac": tells a proact store from any other SQLite file
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE task (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, facts TEXT NOT NULL);
CREATE TABLE variant (
    id INTEGER PRIMARY KEY, task INTEGER NOT NULL REFERENCES task, name TEXT NOT NULL,
    digest TEXT NOT NULL, images INTEGER NOT NULL, correct INTEGER NOT NULL,
    UNIQUE (task, digest, name));
CREATE TABLE fault (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL UNIQUE, ber REAL);
CREATE TABLE row (
    variant INTEGER NOT NULL REFERENCES variant, fault INTEGER NOT NULL REFERENCES fault,
    trial INTEGER NOT NULL, flips INTEGER NOT NULL, images INTEGER NOT NULL,
    correct INTEGER NOT NULL, agreeing INTEGER NOT NULL, non_finite INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (variant, fault, trial)) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """One trial of one cell. Counts are of images; ``seconds`` is its wall time."""

    trial: int
    flips: int
    images: int
    correct: int
    agreeing: int
    non_finite: int
    seconds: float


class Store:
    """An open store. Use as a context manager, or `close` it.

    Args:
        path: a file, made where it does not exist; None keeps the rows in memory.

    Raises:
        ProactError: a file that is no proact store or a newer one's, or that cannot be written.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            _refuse_strangers(self.path)
        with self._errors_named():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path or ":memory:", isolation_level=None)
        try:
            with self._errors_named():
                self._prepare()
        except ProactError:
            self._connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def task(self, digest: str, facts: Mapping[str, Any]) -> int:
        """The number of the task with this digest, registered where it is new."""
        self._execute(
            "INSERT OR IGNORE INTO task (digest, facts) VALUES (?, ?)",
            (digest, json.dumps(dict(facts), sort_keys=True)),
        )
        return self._number("SELECT id FROM task WHERE digest = ?", digest)

    def variant(self, task: int, name: str, digest: str, images: int, correct: int) -> int:
        """The number of a variant; ``images`` and ``correct`` are its result without faults."""
        self._execute(
            "INSERT OR IGNORE INTO variant (task, name, digest, images, correct)"
            " VALUES (?, ?, ?, ?, ?)",
            (task, name, digest, images, correct),
        )
        return self._number(
            "SELECT id FROM variant WHERE task = ? AND name = ? AND digest = ?", task, name, digest
        )

    def fault(self, name: str, description: Mapping[str, Any]) -> int:
        """The number of a fault; ``description`` holds its fields, ``ber`` among them or not."""
        text = json.dumps(dict(description), sort_keys=True)
        ber = description.get("ber")
        self._execute(
            "INSERT OR IGNORE INTO fault (name, description, ber) VALUES (?, ?, ?)",
            (name, text, ber if isinstance(ber, float) else None),
        )
        return self._number("SELECT id FROM fault WHERE description = ?", text)

    def add(self, variant: int, fault: int, row: Row) -> None:
        """Stores a row for good; one that is there already stays as it is."""
        self._execute(
            "INSERT OR IGNORE INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (variant, fault, *row)
        )

    def rows(self, variant: int, fault: int) -> list[Row]:
        """The stored trials of one cell, in the order of their numbers."""
        found = self._execute(
            "SELECT trial, flips, images, correct, agreeing, non_finite, seconds FROM row"
            " WHERE variant = ? AND fault = ? ORDER BY trial",
            (variant, fault),
        )
        return [Row(*values) for values in found]

    def _number(self, query: str, *arguments: Any) -> int:
        return int(self._execute(query, arguments)[0][0])

    def _execute(self, statement: str, arguments: Sequence[Any] = ()) -> list[Any]:
        with self._errors_named():
            return self._connection.execute(statement, arguments).fetchall()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ProactError(f"the store {self.path} cannot be used: {error}") from None

    def _is_empty(self) -> bool:
        return self._number("SELECT count(*) FROM sqlite_master") == 0

    def _prepare(self) -> None:
        if self._is_empty() and self._number("PRAGMA application_id") == 0:
            self._execute("PRAGMA journal_mode = WAL")
        # One transaction, and one process at a time: a run that is killed here, or two that start
        # together, leave a whole schema or none. It also tells now whether the file can be written.
        self._execute("BEGIN IMMEDIATE")
        if self._is_empty() and self._number("PRAGMA application_id") == 0:
            for statement in _SCHEMA.split(";"):
                self._execute(statement)
            self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._execute("COMMIT")
        if self._number("PRAGMA application_id") != APPLICATION_ID:
            raise ProactError(
                f"{self.path} is an SQLite file of another program, not a proact store"
            )
        version = self._number("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            raise ProactError(
                f"{self.path} has store version {version}, this proact reads {SCHEMA_VERSION}"
            )
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute("PRAGMA foreign_keys = ON")


def _refuse_strangers(path: Path) -> None:
    """Looks before SQLite does: it would write into an empty file and lock a foreign one."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise ProactError(f"the store {path} is a folder, expected a file") from None
    except OSError as error:
        raise ProactError(f"the store {path} cannot be read: {error.strerror}") from None
    if head and head != b"SQLite format 3\0":
        raise ProactError(f"{path} is not a proact store: it is not an SQLite file")
