"""An SQLite file that is a proact store: opened, checked, brought up to date."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from proact.errors import ProactError
from proact.results.schema import (
    APPLICATION_ID,
    LATER_COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
    refuse_other_files,
    refuse_other_schema,
)
from proact.text import shortened

#: How long one process waits while another writes.
_PATIENCE_SECONDS = 60.0

Opened = TypeVar("Opened", bound="Database")


class Database:
    """An open store. Use it as a context manager, or `close` it.

    Args:
        path: a file, created if it does not exist; None keeps the rows in memory.
        read_only: open an existing file, which may lack write permission, and change nothing in it.

    Raises:
        ProactError: the file is not a proact store, has another version's format, or cannot be
            written (with ``read_only``: read).
    """

    def __init__(self, path: Path | str | None = None, read_only: bool = False) -> None:
        # A later change of the working folder must not make another store of it.
        self.path = None if path is None else Path(path).absolute()
        if self.path is not None:
            refuse_other_files(self.path)
        with self.errors_named():
            self.connection = self._connected(read_only)
            self.connection.execute("PRAGMA trusted_schema = OFF")
            self.connection.execute("PRAGMA cell_size_check = ON")
        # A result keeps a store in memory open for as long as the result lives.
        self._finalizer = weakref.finalize(self, self.connection.close)
        try:
            with self.errors_named():
                if not (read_only or self._is_new()):
                    self._check()  # before a statement of the schema could run
                if not read_only:
                    self._prepare()
                self._check()
                if read_only:
                    self._add_later_columns()
        except ProactError:
            self.close()
            raise

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._finalizer()

    @contextmanager
    def again(self: Opened) -> Iterator[Opened]:
        """The same store, opened for a while to be read; one in memory lives as long as its
        connection, and is given as it is."""
        if self.path is None:
            yield self
            return
        if not self.path.exists():
            raise ProactError(f"the store {self.path} is gone, and with it the rows of this result")
        with type(self)(self.path, read_only=True) as opened:
            yield opened

    def number(self, query: str, *arguments: Any) -> int:
        """The one number that a query gives."""
        return int(self.execute(query, arguments)[0][0])

    def execute(
        self, statement: str, arguments: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Any]:
        """All rows that a statement gives; ProactError where it fails."""
        with self.errors_named():
            return self.connection.execute(statement, arguments).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside, or none of them."""
        with self.errors_named():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Errors of SQLite and of files become `ProactError` with the store's name."""
        try:
            yield
        # Integers beyond 64 bits, texts that are not UTF-8.
        except (OSError, sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            reason = shortened(" ".join(str(error).split()), 200)
            raise ProactError(f"the store {self.path} cannot be used: {reason}") from None

    def _connected(self, read_only: bool) -> sqlite3.Connection:
        if self.path is None:
            # A result may be read, and is freed, in another thread than that of the campaign.
            return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if not read_only:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(self.path, isolation_level=None, timeout=_PATIENCE_SECONDS)
        if not self.path.exists():
            raise ProactError(f"there is no store {self.path}")
        # With write permission, SQLite removes its files beside the store. Without it, a log (WAL)
        # can be read only with an index beside it. Where no file can be created, no process is
        # writing, and a store without a log can be read as immutable. A store with a log would
        # lack the rows of the log.
        for mode in ("mode=rw", "mode=ro", "mode=ro&immutable=1"):
            if "immutable" in mode and _holds_something(log := Path(f"{self.path}-wal")):
                raise ProactError(
                    f"the store {self.path} has rows in {log.name}, which can be read only where "
                    "files can be written beside it: copy both into a folder where they can"
                )
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?{mode}",
                uri=True,
                isolation_level=None,
                timeout=_PATIENCE_SECONDS,
            )
            try:
                connection.execute("PRAGMA query_only = 1")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return connection
            except sqlite3.Error as error:
                connection.close()
                reason = error
                if "locked" in str(error):  # another mode would wait as long
                    break
        raise reason

    def _is_empty(self) -> bool:
        return self.number("SELECT count(*) FROM sqlite_master") == 0

    def _log_ahead(self) -> None:
        # SQLite waits for others everywhere but here.
        end = time.monotonic() + _PATIENCE_SECONDS
        with self.errors_named():
            while True:
                try:
                    self.connection.execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > end:
                        raise
                    time.sleep(0.01)

    def _is_new(self) -> bool:
        return self._is_empty() and self.number("PRAGMA application_id") == 0

    def _prepare(self) -> None:
        if self._is_new():
            self._log_ahead()
        # One transaction, and one process at a time: a run that is killed here, or two that start
        # together, leave a whole schema or none. It also tells now whether the file can be written.
        self.execute("BEGIN IMMEDIATE")
        if self._is_new():
            self._make(SCHEMA)
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        version = self.number("PRAGMA user_version")
        if self.number("PRAGMA application_id") == APPLICATION_ID and version in UPGRADES:
            self._make(UPGRADES[version])
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.execute("COMMIT")
        self.execute("PRAGMA synchronous = NORMAL")
        self.execute("PRAGMA foreign_keys = ON")

    def _make(self, statements: str) -> None:
        for statement in statements.split(";"):
            self.execute(statement)

    def _add_later_columns(self) -> None:
        """Let queries find the columns that an older store lacks, without a change of its file."""
        version = self.number("PRAGMA user_version")
        if version in UPGRADES:
            self.execute("PRAGMA query_only = 0")
            self.execute(f"CREATE TEMP VIEW row AS SELECT *, {LATER_COLUMNS} FROM main.row")
            self.execute("PRAGMA query_only = 1")

    def _check(self) -> None:
        if self.number("PRAGMA application_id") != APPLICATION_ID:
            raise ProactError(
                f"{self.path} is an SQLite file of another program, not a proact store"
            )
        version = self.number("PRAGMA user_version")
        if version != SCHEMA_VERSION and version not in UPGRADES:
            raise ProactError(
                f"{self.path} has store version {version}, this proact reads {SCHEMA_VERSION}"
            )
        refuse_other_schema(self.connection, self.path, version)


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
