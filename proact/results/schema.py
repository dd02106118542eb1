"""The tables of a store, and what tells a store from other files.

    task      what all rows of a campaign share, by content digest
    variant   one network of a task, by content digest, and what it does without faults
    fault     what was injected, as text and as JSON
    row       one trial of one variant under one fault
    failure   trials that could not be run, and why
    choice    what the warm-up and `images_per_trial="auto"` settled on, for resumed runs to keep
    campaign  names that users gave, and the variants of each

The columns of ``row`` are those of `proact.results.store.Row`.
"""

from __future__ import annotations

from pathlib import Path

from proact.errors import ProactError

APPLICATION_ID = 0x70726163  # "prac": tells a proact store from any other SQLite file
SCHEMA_VERSION = 3

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
    sdc10 INTEGER, sdc20 INTEGER, non_finite INTEGER NOT NULL, seconds REAL NOT NULL,
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

#: What was asked for (see `proact.results.run_log`), and each time that somebody worked on it.
_RUNS = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, description TEXT NOT NULL);
CREATE TABLE session (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, started TEXT NOT NULL, ended TEXT,
    outcome TEXT, rows INTEGER, environment TEXT NOT NULL);
"""

SCHEMA += _RUNS

#: By version of an older store, the tables that it lacks.
LATER_TABLES = {2: _RUNS}


def refuse_strangers(path: Path) -> None:
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
