"""Checks the content of a store before it is used: a store may come from elsewhere.

SQL compares every row with the types and ranges of its columns, so that only rows that do not fit
reach Python. Values that were changed within their range are not noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from proact.errors import ProactError
from proact.limits import TRIALS
from proact.results.run_log import facts_digest, logged_runs
from proact.results.spec_check import ROUNDING
from proact.results.store import Store
from proact.results.stored_json import parsed_object
from proact.text import short_repr, shortened

_LARGEST = sys.float_info.max

Signature = tuple[tuple[int, int, int], ...]
#: By path, the state of the file in which its content was last checked.
_checked: dict[Path, Signature] = {}


class CheckedColumn(NamedTuple):
    """The condition of a column in SQL, and in words."""

    name: str
    condition: str
    words: str


class Bounds(NamedTuple):
    """The range of a variant's metric, and its number of images."""

    lowest: float
    highest: float
    images: int


def _integer(name: str, lowest: int, highest: str, words: str) -> CheckedColumn:
    return CheckedColumn(
        name, f"typeof({name}) = 'integer' AND {name} BETWEEN {lowest} AND {highest}", words
    )


def _count(name: str) -> CheckedColumn:
    column = _integer(name, 0, "images", "an integer from 0 to the number of images")
    return column._replace(condition=f"({name} IS NULL OR {column.condition})")


def _number(name: str, lowest: str, highest: str, words: str) -> CheckedColumn:
    # Texts, blobs and NULL are in no range of numbers.
    return CheckedColumn(name, f"coalesce({name} BETWEEN {lowest} AND {highest}, 0)", words)


def _text(name: str) -> CheckedColumn:
    return CheckedColumn(name, f"typeof({name}) = 'text'", "a text")


def _optional(column: CheckedColumn) -> CheckedColumn:
    return column._replace(
        condition=f"({column.name} IS NULL OR {column.condition})", words=f"{column.words} or NULL"
    )


_TRIAL = _integer("trial", 0, str(TRIALS - 1), f"an integer in [0, {TRIALS})")
_MOST = str(2**63 - 1)
_NOT_NEGATIVE = "a finite number of at least 0"
_ROW = (
    _TRIAL,
    _integer("flips", 0, _MOST, "an integer of at least 0"),
    _integer("images", 1, ":images", "an integer from 1 to the number of evaluation images"),
    _number("value", ":lowest", ":highest", "a number in the range of the metric"),
    _number("clean", ":lowest", ":highest", "a number in the range of the metric"),
    *map(_count, ("correct", "top5", "agreeing", "sdc5", "sdc10", "sdc20")),
    _optional(_number("loss", "0", repr(_LARGEST), _NOT_NEGATIVE)),
    _count("non_finite")._replace(
        condition="typeof(non_finite) = 'integer' AND non_finite BETWEEN 0 AND images"
    ),
    _count("raised")._replace(
        condition="typeof(raised) = 'integer' AND raised BETWEEN 0 AND images"
    ),
    _number("seconds", repr(-_LARGEST), repr(_LARGEST), "a finite number"),
)
_FAILURE = (_TRIAL, _integer("attempts", 1, _MOST, "an integer of at least 1"), _text("error"))
_IMAGES = "an integer of at least 1"
#: The columns of the small tables, which name their rows by the first one.
_TABLES: Mapping[str, tuple[CheckedColumn, ...]] = {
    "task": (_integer("id", 1, _MOST, _IMAGES), _text("digest"), _text("facts")),
    "variant": (
        _integer("id", 1, _MOST, _IMAGES),
        CheckedColumn("task", "task IN (SELECT id FROM task)", "the number of a task"),
        _text("name"),
        _text("digest"),
        _integer("images", 1, _MOST, _IMAGES),
        _number("value", repr(-_LARGEST), repr(_LARGEST), "a finite number"),
        *map(_count, ("correct", "top5")),
        _optional(_number("loss", "0", repr(_LARGEST), _NOT_NEGATIVE)),
    ),
    "fault": (
        _integer("id", 1, _MOST, _IMAGES),
        _text("name"),
        _text("description"),
        _optional(_number("ber", "0", "1", "a number in [0, 1]")),
    ),
    "choice": (_text("subject"), _text("made")),
    "campaign": (
        _text("name"),
        CheckedColumn("variant", "variant IN (SELECT id FROM variant)", "the number of a variant"),
    ),
    "run": (_integer("id", 1, _MOST, _IMAGES), _text("digest"), _text("description")),
    "session": (
        _integer("id", 1, _MOST, _IMAGES),
        CheckedColumn("run", "run IN (SELECT id FROM run)", "the number of a run"),
        _text("started"),
        _optional(_text("ended")),
        _optional(_text("outcome")),
        _optional(_integer("rows", 0, _MOST, "an integer of at least 0")),
        _text("environment"),
    ),
}


@contextmanager
def opened_again(store: Store) -> Iterator[Store]:
    """`Store.again`, with a check of the content if the file has changed since its last check."""
    with store.again() as opened:
        check_store(opened)
        yield opened


def check_store(store: Store) -> None:
    """Checks the content of a store on disk, unless it is as it was at the last check.

    Raises:
        ProactError: the file is damaged, or a row or a key does not fit; the message names it.
    """
    if store.path is None:
        return  # only this process has written it
    state = _state_of(store.path)
    if _checked.get(store.path) == state:
        return
    _check_pages(store)
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
    for table, columns in _TABLES.items():
        if table in tables:  # stores of version 2 have no runs
            _check_table(store, table, columns)
    for digest, facts in store.execute("SELECT digest, facts FROM task"):
        if (
            facts_digest(parsed_object(facts, f"the task {short_repr(digest)} of the store"))
            != digest
        ):
            raise ProactError(
                f"the store {store.path} holds facts of the task {short_repr(digest)} that do not "
                "have this digest, so that they were changed: use an unchanged copy of the store"
            )
    for fault, description in store.execute("SELECT id, description FROM fault"):
        parsed_object(description, f"the fault {fault} of the store")
    for subject, made in store.execute("SELECT subject, made FROM choice"):
        parsed_object(made, f"the choice {short_repr(subject)} of the store")
    _check_cells(store, _bounds(store))
    _checked[store.path] = state


def _state_of(path: Path) -> Signature:
    state = []
    for each in (path, Path(f"{path}-wal")):
        try:
            found = each.stat()
        except OSError:
            continue
        # Every reader makes an empty write-ahead log anew.
        if found.st_size or each == path:
            state.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(state)


def _check_pages(store: Store) -> None:
    ((found,),) = store.execute("PRAGMA quick_check(1)")
    if found != "ok":
        told = shortened(" ".join(str(found).split()), 200)
        raise ProactError(f"the store {store.path} is damaged ({told}): use an undamaged copy")


def _check_table(store: Store, table: str, columns: tuple[CheckedColumn, ...]) -> None:
    conditions = " AND ".join(f"({column.condition})" for column in columns)
    found = store.execute(
        f"SELECT {', '.join(column.name for column in columns)} FROM {table}"
        f" WHERE ({conditions}) IS NOT TRUE LIMIT 1"
    )
    if found:
        place = f"the row {short_repr(found[0][0])} of the table {table}"
        _refuse(store, place, table, columns, {columns[0].name: found[0][0]}, {})


def _check_cells(store: Store, bounds: Mapping[int, Bounds]) -> None:
    faults = {number for (number,) in store.execute("SELECT id FROM fault")}
    for table, columns in (("row", _ROW), ("failure", _FAILURE)):
        conditions = " AND ".join(f"({column.condition})" for column in columns)
        for variant, fault in _cells(store, table):
            if variant not in bounds or fault not in faults:
                raise ProactError(
                    f"the store {store.path} has a {table} of the variant {short_repr(variant)} "
                    f"and the fault {short_repr(fault)}, which it does not list: use an unchanged "
                    "copy of the store"
                )
            cell = {"variant": variant, "fault": fault}
            limits = _limits(bounds[variant])
            found = store.execute(
                f"SELECT trial FROM {table} WHERE variant = :variant AND fault = :fault"
                f" AND ({conditions}) IS NOT TRUE LIMIT 1",
                {**limits, **cell},
            )
            if found:
                trial = found[0][0]
                place = (
                    f"the {table} of variant {variant}, fault {fault}, trial {short_repr(trial)}"
                )
                _refuse(store, place, table, columns, {**cell, "trial": trial}, limits)


def _cells(store: Store, table: str) -> Iterator[tuple[Any, Any]]:
    """The (variant, fault) of a table in its order, each by one search in its index."""
    found = store.execute(f"SELECT variant, fault FROM {table} ORDER BY variant, fault LIMIT 1")
    while found:
        (cell,) = found
        yield cell
        found = store.execute(
            f"SELECT variant, fault FROM {table} WHERE (variant, fault) > (?, ?)"
            " ORDER BY variant, fault LIMIT 1",
            cell,
        )


def _limits(bounds: Bounds) -> dict[str, float]:
    room = ROUNDING * (min(bounds.highest, _LARGEST / 4) - max(bounds.lowest, -_LARGEST / 4))
    return {
        "lowest": max(bounds.lowest - room, -_LARGEST),
        "highest": min(bounds.highest + room, _LARGEST),
        "images": bounds.images,
    }


def _bounds(store: Store) -> dict[int, Bounds]:
    """The bounds of each variant; those of no run have only the limits of any number."""
    bounds = {
        variant: Bounds(-_LARGEST, _LARGEST, images)
        for variant, images in store.execute("SELECT id, images FROM variant")
    }
    for _, spec, _ in logged_runs(store):
        for cell in spec.cells:
            if (variant := cell.key[0]) in bounds:
                images = bounds[variant].images
                bounds[variant] = Bounds(spec.lowest, spec.highest, images)
    return bounds


def _refuse(
    store: Store,
    place: str,
    table: str,
    columns: tuple[CheckedColumn, ...],
    key: Mapping[str, Any],
    limits: Mapping[str, float],
) -> None:
    """ProactError that names the first column whose condition a row does not meet."""
    where = " AND ".join(f"{name} IS :{name}" for name in key)
    for column in columns:
        found = store.execute(
            f"SELECT {column.name} FROM {table} WHERE {where} AND ({column.condition}) IS NOT TRUE"
            " LIMIT 1",
            {**limits, **key},
        )
        if found:
            raise ProactError(
                f"the store {store.path} has {short_repr(found[0][0])} as {column.name} in "
                f"{place}, expected {column.words}: use an unchanged copy of the store"
            )
    raise ProactError(f"the store {store.path} has {place}, which does not fit its table")
