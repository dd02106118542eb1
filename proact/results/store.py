"""The rows of campaigns in one SQLite file, readable with sqlite3 and pandas alone.

`schema` describes the tables, `database` opens the file. Rows are written in portions as they are
done, each portion in one transaction (WAL): several processes can use one file, and a killed one
leaves whole portions. SQLite aggregates the rows, so that a campaign's memory does not grow
with its trials.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from proact.limits import TRIALS
from proact.results.database import Database
from proact.text import storable


class Row(NamedTuple):
    """One trial of one cell.

    Attributes:
        trial: its number, which together with the seed determines the fault pattern and the images.
        flips: number of flipped bits.
        images: number of images on which the trial was judged.
        value, clean: the mean of the metric over these images, under faults and without.
        correct, top5, loss: see `proact.campaign.counts.Counts`; None if the outputs are not logits
            of classes, or without labels.
        agreeing, sdc5, sdc10, sdc20: likewise; None if the outputs are not logits of classes.
        non_finite, raised: likewise; for outputs of every kind.
        seconds: wall-clock time in seconds; 0 if nothing had to be run.
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
    raised: int
    seconds: float


#: The numbers of a variant and of a fault in the store.
CellKey: TypeAlias = tuple[int, int]

_COLUMNS = ", ".join(Row._fields)
_PLACES = ", ".join("?" * (2 + len(Row._fields)))
_CELL = "variant = ? AND fault = ?"


class Store(Database):
    """An open store: see `Database`, whose arguments it has."""

    def task(self, digest: str, facts: Mapping[str, Any]) -> int:
        """The number of the task with this digest, registered where it is new."""
        self.execute(
            "INSERT OR IGNORE INTO task (digest, facts) VALUES (?, ?)",
            (digest, json.dumps(dict(facts), sort_keys=True)),
        )
        return self.number("SELECT id FROM task WHERE digest = ?", digest)

    def named(self, name: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        """The facts of the task that a campaign of this name has, and the content digests of its
        variants by name; None where there is no such campaign."""
        found = self.execute(
            "SELECT facts, variant.name, variant.digest FROM campaign"
            " JOIN variant ON variant.id = variant JOIN task ON task.id = task"
            " WHERE campaign.name = ?",
            (name,),
        )
        if not found:
            return None
        return json.loads(found[0][0]), {variant: digest for _, variant, digest in found}

    def name(self, name: str, variant: int) -> None:
        """Adds a variant to a named campaign."""
        self.execute("INSERT OR IGNORE INTO campaign VALUES (?, ?)", (name, variant))

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
        self.execute(
            "INSERT OR IGNORE INTO variant (task, name, digest, images, value, correct, top5, loss)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (task, name, digest, images, value, *counts),
        )
        return self.number(
            "SELECT id FROM variant WHERE task = ? AND name = ? AND digest = ?", task, name, digest
        )

    def clean_counts(self, cell: CellKey) -> tuple[int, int | None, float | None]:
        """(images, top5, loss) of a cell's variant without faults; see `variant`."""
        ((images, top5, loss),) = self.execute(
            "SELECT images, top5, loss FROM variant WHERE id = ?", cell[:1]
        )
        return images, top5, loss

    def fault(self, name: str, description: Mapping[str, Any]) -> int:
        """The number of a fault; ``description`` holds its fields, ``ber`` among them or not."""
        text = json.dumps(dict(description), sort_keys=True)
        ber = description.get("ber")
        self.execute(
            "INSERT OR IGNORE INTO fault (name, description, ber) VALUES (?, ?, ?)",
            (name, text, ber if isinstance(ber, float) else None),
        )
        return self.number("SELECT id FROM fault WHERE description = ?", text)

    def choice(self, subject: str) -> dict[str, Any] | None:
        """The choice that is stored for a subject, or None."""
        found = self.execute("SELECT made FROM choice WHERE subject = ?", (subject,))
        return json.loads(found[0][0]) if found else None

    def choose(self, subject: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """Stores a choice and returns it; an existing one is kept and returned instead."""
        self.execute(
            "INSERT OR IGNORE INTO choice VALUES (?, ?)", (subject, json.dumps(dict(made)))
        )
        kept = self.choice(subject)
        assert kept is not None
        return kept

    def add(self, cell: CellKey, rows: Iterable[Row]) -> None:
        """Stores rows for good, all or none; one that is there already stays as it is."""
        with self.transaction():
            # OR IGNORE would drop a row whose value is NaN, which SQLite stores as NULL.
            self.connection.executemany(
                f"INSERT INTO row (variant, fault, {_COLUMNS}) VALUES ({_PLACES})"
                " ON CONFLICT (variant, fault, trial) DO NOTHING",
                ((*cell, *row) for row in rows),
            )

    def fail(self, cell: CellKey, trial: int, attempts: int, error: str) -> None:
        """Records a failed trial. Another process may still store its row."""
        self.execute(
            "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?)",
            (*cell, trial, attempts, storable(error)),
        )

    def failures(self, cell: CellKey, trials: int, attempts: int = TRIALS) -> list[tuple[int, str]]:
        """(trial, error) of the failed ones among the first ``trials``.

        Those with so many attempts or more are left out.
        """
        return self.execute(
            f"SELECT trial, error FROM failure AS f WHERE {_CELL} AND trial < ? AND attempts < ?"
            " AND NOT EXISTS ("
            "  SELECT 1 FROM row WHERE row.variant = f.variant AND row.fault = f.fault"
            "  AND row.trial = f.trial) ORDER BY trial",
            (*cell, trials, attempts),
        )

    def rows(
        self, cell: CellKey, trials: int = 1 << 32, first: int = 0, flips: int | None = None
    ) -> list[Row]:
        """The stored trials of a cell from number ``first`` to ``trials`` - 1, in this order; with
        ``flips``, those with so many flips."""
        found = self.execute(
            f"SELECT {_COLUMNS} FROM row WHERE {_CELL} AND trial >= ? AND trial < ?"
            " AND coalesce(flips = ?, 1) ORDER BY trial",
            (*cell, first, trials, flips),
        )
        return [Row(*values) for values in found]

    def runs(self, cell: CellKey, attempts: int = TRIALS) -> list[tuple[int, int]]:
        """The stored and failed trials as ranges [first, last + 1), in order.

        Failed trials with so many attempts or more are left out, so that they run again.
        """
        return self.execute(
            "SELECT min(trial), max(trial) + 1 FROM ("
            "  SELECT trial, trial - row_number() OVER (ORDER BY trial) AS run FROM ("
            f"    SELECT trial FROM row WHERE {_CELL}"
            f"    UNION SELECT trial FROM failure WHERE {_CELL} AND attempts < ?)"
            ") GROUP BY run ORDER BY 1",
            (*cell, *cell, attempts),
        )

    def grouped(
        self, cell: CellKey, columns: Sequence[str], trials: int, where: str = "1"
    ) -> list[tuple[Any, ...]]:
        """(columns, how many) of the first ``trials`` trials that have ``where``, each combination
        once. Columns and condition are SQL over the columns of `Row`."""
        # By position: a constant in a GROUP BY would be one.
        positions = ", ".join(str(1 + index) for index in range(len(columns)))
        return self.execute(
            f"SELECT {', '.join(columns)}, count(*) FROM row WHERE {_CELL} AND trial < ? "
            f"AND {where} GROUP BY {positions}",
            (*cell, trials),
        )

    def totals(self, cell: CellKey, sums: str, trials: int) -> tuple[Any, ...]:
        """Aggregates over the first ``trials`` trials."""
        return tuple(
            self.execute(f"SELECT {sums} FROM row WHERE {_CELL} AND trial < ?", (*cell, trials))[0]
        )

    def paired(self, cell: CellKey, other: CellKey, trials: int) -> list[tuple[Any, ...]]:
        """(value - other's, clean - other's, flipped anything?, how many) of trials of both."""
        return self.execute(
            "SELECT a.value - b.value, a.clean - b.clean, a.flips + b.flips > 0, count(*)"
            " FROM row AS a JOIN row AS b USING (trial)"
            " WHERE a.variant = ? AND a.fault = ? AND b.variant = ? AND b.fault = ? AND trial < ?"
            " GROUP BY 1, 2, 3",
            (*cell, *other, trials),
        )
