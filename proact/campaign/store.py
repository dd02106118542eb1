"""The rows of campaigns in one SQLite file, readable with sqlite3 and pandas alone.

`schema` describes the tables. Rows are written in portions as they are done, each portion in one
transaction (WAL): several processes can use one file, and one that is killed leaves whole portions.
What is asked of many rows is summed up by SQLite, so that a campaign's memory does not grow with
its trials.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from proact.campaign.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, refuse_strangers
from proact.errors import ProactError

#: How long one process waits while another writes.
_PATIENCE_SECONDS = 60.0


class Row(NamedTuple):
    """One trial of one cell.

    Attributes:
        trial: its number, which with the seed names the fault pattern and the images.
        flips: bits flipped.
        images: how many the trial was judged on.
        value, clean: the mean of the metric over them, under faults and without.
        correct, top5, loss, agreeing, sdc5, sdc10, sdc20, non_finite: see
            `proact.campaign.metrics.Counts`; None where they make no sense.
        seconds: of wall time; 0 where nothing had to be run.
    """

    trial: int
    flips: int
    images: int
    value: float
    clean: float
    correct: int | None
    top5: int | None
    loss: float | None
    agreeing: int | None
    sdc5: int | None
    sdc10: int | None
    sdc20: int | None
    non_finite: int
    seconds: float


class CellKey(NamedTuple):
    """The numbers of a variant and a fault in the store."""

    variant: int
    fault: int


_COLUMNS = ", ".join(Row._fields)
_PLACES = ", ".join("?" * (2 + len(Row._fields)))
_CELL = "variant = ? AND fault = ?"


class Store:
    """An open store. Use as a context manager, or `close` it.

    Args:
        path: a file, made where it does not exist; None keeps the rows in memory.

    Raises:
        ProactError: a file that is no proact store or another version's, or that cannot be written.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        # A later change of the working folder must not make another store of it.
        self.path = None if path is None else Path(path).absolute()
        if self.path is not None:
            refuse_strangers(self.path)
        with self._errors_named():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path or ":memory:", isolation_level=None, timeout=_PATIENCE_SECONDS
            )
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

    def named(self, name: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        """The facts of the task that a campaign of this name has, and the content digests of its
        variants by name; None where there is no such campaign."""
        found = self._execute(
            "SELECT facts, variant.name, variant.digest FROM campaign"
            " JOIN variant ON variant.id = variant JOIN task ON task.id = task"
            " WHERE campaign.name = ?",
            (name,),
        )
        if not found:
            return None
        return json.loads(found[0][0]), {variant: digest for _, variant, digest in found}

    def name(self, name: str, variant: int) -> None:
        """Makes a variant one of a named campaign's."""
        self._execute("INSERT OR IGNORE INTO campaign VALUES (?, ?)", (name, variant))

    def variant(
        self,
        task: int,
        name: str,
        digest: str,
        images: int,
        value: float,
        counts: tuple[int | None, int | None, float | None] = (None, None, None),
    ) -> int:
        """The number of a variant; ``value`` and ``counts`` (correct, top5, loss) are its result
        without faults on all ``images``."""
        self._execute(
            "INSERT OR IGNORE INTO variant (task, name, digest, images, value, correct, top5, loss)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (task, name, digest, images, value, *counts),
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

    def choice(self, subject: str) -> dict[str, Any] | None:
        """What was chosen for the subject, or None."""
        found = self._execute("SELECT made FROM choice WHERE subject = ?", (subject,))
        return json.loads(found[0][0]) if found else None

    def choose(self, subject: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a choice and returns it; where there is one already, that one."""
        self._execute(
            "INSERT OR IGNORE INTO choice VALUES (?, ?)", (subject, json.dumps(dict(made)))
        )
        kept = self.choice(subject)
        assert kept is not None
        return kept

    def add(self, cell: CellKey, rows: Iterable[Row]) -> None:
        """Stores rows for good, all or none; one that is there already stays as it is."""
        with self._transaction():
            self._connection.executemany(
                f"INSERT OR IGNORE INTO row (variant, fault, {_COLUMNS}) VALUES ({_PLACES})",
                ((*cell, *row) for row in rows),
            )

    def fail(self, cell: CellKey, trial: int, attempts: int, error: str) -> None:
        """Records a trial that could not be run (here: another process may have its row)."""
        self._execute(
            "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?)",
            (*cell, trial, attempts, error),
        )

    def forget_failures(self, cell: CellKey) -> None:
        """Lets the failed trials of a cell be tried again."""
        self._execute(f"DELETE FROM failure WHERE {_CELL}", cell)

    def failures(self, cell: CellKey, trials: int) -> list[tuple[int, str]]:
        """(trial, error) of those among the first ``trials`` that could not be run."""
        return self._execute(
            f"SELECT trial, error FROM failure AS f WHERE {_CELL} AND trial < ? AND NOT EXISTS ("
            "  SELECT 1 FROM row WHERE row.variant = f.variant AND row.fault = f.fault"
            "  AND row.trial = f.trial) ORDER BY trial",
            (*cell, trials),
        )

    def rows(self, cell: CellKey, trials: int = 1 << 32) -> list[Row]:
        """The first ``trials`` trials of one cell, as far as stored, in the order of their
        numbers."""
        found = self._execute(
            f"SELECT {_COLUMNS} FROM row WHERE {_CELL} AND trial < ? ORDER BY trial",
            (*cell, trials),
        )
        return [Row(*values) for values in found]

    def runs(self, cell: CellKey) -> list[tuple[int, int]]:
        """The stored and failed trials as ranges [first, last + 1), in order."""
        return self._execute(
            "SELECT min(trial), max(trial) + 1 FROM ("
            "  SELECT trial, trial - row_number() OVER (ORDER BY trial) AS run FROM ("
            f"    SELECT trial FROM row WHERE {_CELL}"
            f"    UNION SELECT trial FROM failure WHERE {_CELL})"
            ") GROUP BY run ORDER BY 1",
            (*cell, *cell),
        )

    def grouped(
        self, cell: CellKey, columns: Sequence[str], trials: int, where: str = "1"
    ) -> list[tuple[Any, ...]]:
        """(columns, how many) of the first ``trials`` trials that have ``where``, each combination
        once. Columns and condition are SQL over the columns of `Row`."""
        # By position: a constant in a GROUP BY would be one.
        positions = ", ".join(str(1 + index) for index in range(len(columns)))
        return self._execute(
            f"SELECT {', '.join(columns)}, count(*) FROM row WHERE {_CELL} AND trial < ? "
            f"AND {where} GROUP BY {positions}",
            (*cell, trials),
        )

    def totals(self, cell: CellKey, sums: str, trials: int) -> tuple[Any, ...]:
        """Aggregates over the first ``trials`` trials."""
        return tuple(
            self._execute(f"SELECT {sums} FROM row WHERE {_CELL} AND trial < ?", (*cell, trials))[0]
        )

    def paired(self, cell: CellKey, other: CellKey, trials: int) -> list[tuple[Any, ...]]:
        """(value - other's, clean - other's, flipped anything?, how many) of trials of both."""
        return self._execute(
            "SELECT a.value - b.value, a.clean - b.clean, a.flips + b.flips > 0, count(*)"
            " FROM row AS a JOIN row AS b USING (trial)"
            " WHERE a.variant = ? AND a.fault = ? AND b.variant = ? AND b.fault = ? AND trial < ?"
            " GROUP BY 1, 2, 3",
            (*cell, *other, trials),
        )

    def _number(self, query: str, *arguments: Any) -> int:
        return int(self._execute(query, arguments)[0][0])

    def _execute(self, statement: str, arguments: Sequence[Any] = ()) -> list[Any]:
        with self._errors_named():
            return self._connection.execute(statement, arguments).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors_named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ProactError(f"the store {self.path} cannot be used: {error}") from None

    def _is_empty(self) -> bool:
        return self._number("SELECT count(*) FROM sqlite_master") == 0

    def _log_ahead(self) -> None:
        # SQLite waits for others everywhere but here.
        end = time.monotonic() + _PATIENCE_SECONDS
        with self._errors_named():
            while True:
                try:
                    self._connection.execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > end:
                        raise
                    time.sleep(0.01)

    def _prepare(self) -> None:
        if self._is_empty() and self._number("PRAGMA application_id") == 0:
            self._log_ahead()
        # One transaction, and one process at a time: a run that is killed here, or two that start
        # together, leave a whole schema or none. It also tells now whether the file can be written.
        self._execute("BEGIN IMMEDIATE")
        if self._is_empty() and self._number("PRAGMA application_id") == 0:
            for statement in SCHEMA.split(";"):
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
