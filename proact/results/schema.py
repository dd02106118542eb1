"""The tables of a store, and how a store is distinguished from other files.

    task      the identity that all rows of a campaign share, by digest
    variant   one model of a task, by digest, and its clean result
    fault     an injected fault, as text and as JSON
    row       one trial of one variant under one fault
    failure   failed trials with their reasons
    choice    the execution policy that the pilot chose, which resumed runs keep
    campaign  names given by users, and the variants of each

The columns of ``row`` are those of `proact.results.store.Row`.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from functools import cache
from pathlib import Path

from proact.errors import ProactError
from proact.files import open_regular
from proact.text import short_repr, shortened

APPLICATION_ID = 0x70726163  # "prac": distinguishes a store from other SQLite files
SCHEMA_VERSION = 4

SCHEMA = """
CREATE TABLE task (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, facts TEXT NOT NULL);
CREATE TABLE variant (
    id INTEGER PRIMARY KEY, task INTEGER NOT NULL REFERENCES task, name TEXT NOT NULL,
    digest TEXT NOT NULL, images INTEGER NOT NULL, value REAL NOT NULL, correct INTEGER,
    top5 INTEGER, loss REAL, UNIQUE (task, digest, name));
CREATE TABLE fault (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL UNIQUE, ber REAL);
CREATE TABLE row (
    variant INTEGER NOT NULL REFERENCES variant, fault INTEGER NOT NULL REFERENCES fault,
    trial INTEGER NOT NULL, flips INTEGER NOT NULL, images INTEGER NOT NULL, value REAL NOT NULL,
    clean REAL NOT NULL, correct INTEGER, top5 INTEGER, loss REAL, agreeing INTEGER, sdc5 INTEGER,
    sdc10 INTEGER, sdc20 INTEGER, non_finite INTEGER NOT NULL, raised INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL,
    PRIMARY KEY (variant, fault, trial)) WITHOUT ROWID;
CREATE TABLE failure (
    variant INTEGER NOT NULL REFERENCES variant, fault INTEGER NOT NULL REFERENCES fault,
    trial INTEGER NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL,
    PRIMARY KEY (variant, fault, trial)) WITHOUT ROWID;
CREATE TABLE choice (subject TEXT PRIMARY KEY, made TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE campaign (
    name TEXT NOT NULL, variant INTEGER NOT NULL REFERENCES variant,
    PRIMARY KEY (name, variant)) WITHOUT ROWID;
"""

#: Specifications of runs (see `proact.results.run_log`), and the sessions that worked on them.
_RUNS = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, description TEXT NOT NULL);
CREATE TABLE session (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, started TEXT NOT NULL, ended TEXT,
    outcome TEXT, rows INTEGER, environment TEXT NOT NULL);
"""

SCHEMA += _RUNS

#: The columns of ``row`` that stores of versions 2 and 3 lack, with their values there.
LATER_COLUMNS = "0 AS raised"
_RAISED = "ALTER TABLE row ADD COLUMN raised INTEGER NOT NULL DEFAULT 0"

#: By version of an older store, the statements that make it a store of this version.
UPGRADES = {2: f"{_RUNS};{_RAISED}", 3: _RAISED}


#: The names of a schema's parts, and the columns of its tables.
Parts = set[tuple[str, str]]
Columns = set[tuple[object, ...]]


def refuse_other_schema(connection: sqlite3.Connection, path: Path | None, version: int) -> None:
    """ProactError if a store has other tables and columns than those of its version, or triggers,
    views or indexes, which could change what is read and written."""
    parts, columns = _schema_of(connection)
    known, known_columns = _known_schema()
    added = parts - known
    if added:
        kind, name = min(added)
        raise ProactError(
            f"the store {path} has the {kind} {short_repr(name)}, which no proact made: use an "
            "unchanged copy of the store"
        )
    lacks = known - parts
    missing = known_columns - columns
    if version in UPGRADES:
        later = {"raised"}
        tables = {"run", "session"} if version == 2 else set[str]()
        lacks = {part for part in lacks if part[1] not in tables}
        missing = {each for each in missing if each[0] not in tables and each[1] not in later}
    if lacks or missing or columns - known_columns:
        found = [f"the table {name}" for _, name in sorted(lacks)]
        found += sorted(
            f"the column {shortened(str(name))} of {table}"
            for table, name, *_ in missing
            if table not in {name for _, name in lacks}
        )
        if not found:
            of, column, *_ = min(columns - known_columns, key=str)
            raise ProactError(
                f"the store {path} has the column {shortened(str(column))} of {of}, which no "
                "proact made: use an unchanged copy of the store"
            )
        raise ProactError(
            f"the store {path} lacks {found[0]} as proact made it: use an unchanged copy of the "
            "store"
        )


def _schema_of(connection: sqlite3.Connection) -> tuple[Parts, Columns]:
    """(type, name) of each part but SQLite's own, and (table, name, type, whether it may be NULL,
    place in the primary key, whether it is hidden) of each column."""
    parts = {
        (str(kind), str(name))
        for kind, name in connection.execute("SELECT type, name FROM main.sqlite_master")
        if not str(name).startswith("sqlite_")
    }
    columns = {
        (table, *column)
        for kind, table in parts
        if kind == "table"
        for column in connection.execute(
            "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?, 'main')",
            (table,),
        )
    }
    return parts, columns


@cache
def _known_schema() -> tuple[Parts, Columns]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return _schema_of(connection)


def refuse_other_files(path: Path) -> None:
    """Raises ProactError for a file of another kind, before SQLite would lock or change it."""
    if not path.exists():
        return
    with open_regular(
        path, "a store, such as the file rows.sqlite of a campaign", sys.maxsize
    ) as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise ProactError(f"{path} is not a proact store: it is not an SQLite file")
