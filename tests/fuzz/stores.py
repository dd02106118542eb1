"""Mutates stores at random, and tells whether reading and resuming them stay within the contract.

A mutated store gives the identical result, a result within the range of the metric where a value
was changed within its range, or a `ProactError` of one line. Run it alone for a longer trial:

    PYTHONPATH=.:tests python tests/fuzz/stores.py FIRST_SEED MUTATIONS
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact import ProactError, campaign
from proact.faults import BitFlip
from proact.results import Policy, Result, read

TRIALS = 12
#: The longest message, and the most trials that a resumed campaign may have in the store.
LONGEST, MOST_TRIALS = 1000, 200
ODD: tuple[Any, ...] = (
    *(None, -1, 0, 1, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1, 0.5, -0.5, 1e308, -1e308),
    *(float("inf"), -float("inf"), "", "text", "nan", "9" * 30, "x" * 5000, "\n", "\x00", "é"),
    *(b"", b"\xff\xfe", b"x" * 100),
)
ODD_JSON: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**40, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "text"),
    *("x" * 5000, [], [1], [[]], {}, {"a": 1}, "\n"),
)
TABLES = ("task", "variant", "fault", "row", "failure", "choice", "campaign", "run", "session")


class SmallCampaign:
    """A campaign of a tiny network, which takes a fraction of a second."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(40, 1, 8, 8, generator=generator)
        with torch.no_grad():
            labels = model(images).argmax(1)
        self._models = {"plain": model, "same": nn.Sequential(*model)}
        self._data = (images, labels)

    def run(self, store: Path) -> Result:
        return campaign.run(
            self._models,
            self._data,
            [BitFlip(1e-3), BitFlip(1e-2)],
            trials=TRIALS,
            policy=Policy(None, 40, False),
            name="small",
            store=store,
            executor=1,
            seed=2,
        )


def facts(result: Result) -> object:
    """The figures of a result that a report shows."""
    return repr((result.cells, result.details(), result.clean, result.difference("same", "plain")))


def is_in_range(result: Result) -> bool:
    return all(
        result.spec.lowest <= cell.value.low <= cell.value.high <= result.spec.highest
        for cell in result.cells
    )


# Mutations of a file at a path; each returns its description.


def column(rng: random.Random, path: Path) -> str:
    """An odd value in some rows of a column."""
    with closing(sqlite3.connect(path)) as writer:
        table = rng.choice(TABLES)
        names = [row[1] for row in writer.execute(f"PRAGMA table_info({table})")]
        name, value = rng.choice(names), rng.choice(ODD)
        where = rng.choice(["1", f"{name} IN (SELECT {name} FROM {table} LIMIT 1)"])
        writer.execute("PRAGMA foreign_keys = OFF")
        writer.execute(f"UPDATE OR REPLACE {table} SET {name} = ? WHERE {where}", (value,))
        writer.commit()
        return f"{table}.{name} = {str(value)[:20]!r} where {where[:10]}"


def foreign_row(rng: random.Random, path: Path) -> str:
    """A copy of a row, or a failure, under a key that proact did not write."""
    table = rng.choice(["row", "failure", "row"])
    key = rng.choice(["trial", "trial", "variant", "fault"])
    value = rng.choice([-5, -1, TRIALS, TRIALS + 3, 10**6, 2**32 - 1, 2**32, 2**62, 7, "one"])
    with closing(sqlite3.connect(path)) as writer:
        if table == "failure":
            place = {"variant": 1, "fault": 1, "trial": 3, key: value}
            writer.execute(
                "INSERT OR REPLACE INTO failure VALUES (:variant, :fault, :trial, 1, 'odd')", place
            )
        else:
            names = [row[1] for row in writer.execute("PRAGMA table_info(row)")]
            copied = ", ".join("?" if name == key else name for name in names)
            writer.execute(f"INSERT OR REPLACE INTO row SELECT {copied} FROM row LIMIT 1", (value,))
        writer.commit()
    return f"{table} with {key} = {value}"


def schema(rng: random.Random, path: Path) -> str:
    """A dropped table, or a trigger, view, index, table or column more."""
    table = rng.choice(TABLES)
    statement = rng.choice(
        [
            f"DROP TABLE {table}",
            f"CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM row; END",
            "CREATE VIEW v AS SELECT * FROM row",
            f"CREATE TABLE more AS SELECT * FROM {table}",
            f"ALTER TABLE {table} ADD COLUMN more",
            "CREATE INDEX i ON row (value)",
            f"ALTER TABLE {table} RENAME TO other",
            f"DELETE FROM {table}",
            f"PRAGMA user_version = {rng.choice([0, 2, 3, 5, -1])}",
            "PRAGMA application_id = 7",
        ]
    )
    with closing(sqlite3.connect(path)) as writer:
        writer.execute(statement)
        writer.commit()
    return statement


def json_edit(rng: random.Random, path: Path) -> str:
    """A changed, lost or added key of a JSON text, or a part of the text lost."""
    table, name = rng.choice(
        [("run", "description")] * 6
        + [
            ("task", "facts"),
            ("fault", "description"),
            ("choice", "made"),
            ("session", "environment"),
        ]
    )
    with closing(sqlite3.connect(path)) as writer:
        found = writer.execute(
            f"SELECT rowid, {name} FROM {table}"
            if table != "choice"
            else "SELECT subject, made FROM choice"
        ).fetchall()
        if not found:
            return "nothing"
        row, text = rng.choice(found)
        how, changed = edited(rng, text)
        key = "subject" if table == "choice" else "rowid"
        writer.execute(f"UPDATE OR REPLACE {table} SET {name} = ? WHERE {key} = ?", (changed, row))
        writer.commit()
    return f"{table}.{name}: {how}"


def edited(rng: random.Random, text: str) -> tuple[str, str]:
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        return f"cut at {place}", text[:place]
    if rng.random() < 0.05:
        return "nested", "[" * 100_000
    value: Any = json.loads(text)
    holder, path = value, []
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        path.append(key)
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.3:
            break
        holder = holder[key]
    action = rng.choice(["set", "set", "set", "delete", "add"])
    if action == "set":
        holder[key] = rng.choice(ODD_JSON)
    elif action == "delete" or isinstance(holder, list):
        del holder[key]
    else:
        holder["added"] = 1
    return f"{action} {path}", json.dumps(value)


def bytes_of_the_file(rng: random.Random, path: Path) -> str:
    """Bits flipped, bytes overwritten, or the file cut."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["flip", "flip", "overwrite", "cut"])
    if how == "cut":
        content = content[: rng.randrange(len(content))]
    for _ in range(rng.choice([1, 1, 4, 40])):
        if not content:
            break
        place = rng.randrange(min(len(content), rng.choice([100, 4096, len(content)])))
        content[place] = (
            content[place] ^ (1 << rng.randrange(8)) if how == "flip" else rng.randrange(256)
        )
    path.write_bytes(content)
    return how


MUTATIONS: tuple[Callable[[random.Random, Path], str], ...] = (
    column,
    column,
    foreign_row,
    schema,
    json_edit,
    json_edit,
    bytes_of_the_file,
)


class BrokenContractError(Exception):
    """A mutation that breaks the contract."""


def tried(small: SmallCampaign, clean: bytes, expected: object, seed: int, folder: Path) -> str:
    """Mutates a store and reads and resumes it; returns the kind of its outcome.

    Raises:
        BrokenContractError: a broken contract.
    """
    rng = random.Random(seed)
    path = folder / f"{seed}.sqlite"
    path.write_bytes(clean)
    mutation = rng.choice(MUTATIONS)
    how = f"seed {seed}, {mutation.__name__}: "
    try:
        how += mutation(rng, path)
    except sqlite3.IntegrityError:
        return "not possible"
    kind = ended(how + ", read", lambda: read_figures(path), expected)
    resumed = ended(how + ", resumed", lambda: resumed_figures(small, path), expected)
    for each in folder.iterdir():
        each.unlink()
    return f"read {kind}, resumed {resumed}"


def ended(how: str, run: Callable[[], object], expected: object) -> str:
    try:
        found = run()
    except ProactError as error:
        text = str(error)
        if "\n" in text or len(text) >= LONGEST:
            raise BrokenContractError(f"{how}: {text[:2000]!r}") from None
        return "refused"
    except Exception as error:
        raise BrokenContractError(f"{how}: {type(error).__name__}: {str(error)[:300]}") from error
    return "identical" if found == expected else "changed"


def read_figures(path: Path) -> object:
    found = read(path)
    if not found:
        return None
    if not is_in_range(found[-1]):
        raise ValueError("a value out of the range of the metric")
    return facts(found[-1])


def resumed_figures(small: SmallCampaign, path: Path) -> object:
    result = small.run(path)
    with closing(sqlite3.connect(path)) as reader:
        ((rows,),) = reader.execute("SELECT count(*) FROM row")
    if rows > MOST_TRIALS:
        raise ValueError(f"{rows} rows are in the store")
    return facts(result)


def original(folder: Path) -> tuple[SmallCampaign, bytes, object]:
    """A finished store: its campaign, its bytes and the figures of its result."""
    small, path = SmallCampaign(), folder / "rows.sqlite"
    expected = facts(small.run(path))
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
    content = path.read_bytes()
    path.unlink()
    return small, content, expected


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        prepared = original(Path(name))
        for seed in range(first, first + count):
            try:
                outcomes[tried(*prepared, seed, Path(name))] += 1
            except BrokenContractError as error:
                outcomes["BROKEN"] += 1
                print(error, flush=True)
    print(dict(outcomes))


if __name__ == "__main__":
    main()
