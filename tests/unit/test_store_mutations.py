"""Is a store from elsewhere either read as it was written or refused in one sentence, and does a
campaign that resumes it end?"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conftest import slow
from fuzz.stores import SmallCampaign, edited, facts, original, tried
from proact import ProactError
from proact.cli.main import main
from proact.results import read
from proact.results.store import Store

Prepared = tuple[SmallCampaign, bytes, object]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def path(prepared: Prepared, tmp_path: Path) -> Path:
    place = tmp_path / "rows.sqlite"
    place.write_bytes(prepared[1])
    return place


@pytest.mark.parametrize("group", [*range(4), *slow(*range(4, 10))])
def test_mutated_stores(prepared: Prepared, tmp_path: Path, group: int) -> None:
    kinds = [tried(*prepared, seed, tmp_path) for seed in range(15 * group, 15 * group + 15)]
    assert any("refused" in kind for kind in kinds)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as writer:
        for statement in statements:
            writer.execute(statement)
        writer.commit()


COPIED = (
    "INSERT INTO row SELECT {}, flips, images, value, clean, correct, top5, loss, agreeing, sdc5,"
    " sdc10, sdc20, non_finite, raised, seconds FROM row LIMIT 1"
)
TAMPERED: dict[str, tuple[str, str]] = {
    "value above the range": (
        "UPDATE row SET value = 1.5 WHERE trial = 4",
        "1.5 as value in the row of variant 1, fault 1, trial 4, expected a number in the range",
    ),
    "infinite value": ("UPDATE row SET value = 9e999", "inf as value in the row"),
    "text": ("UPDATE row SET clean = 'high'", "'high' as clean in the row"),
    "fraction": ("UPDATE row SET flips = 2.5", "2.5 as flips in the row"),
    "negative count": ("UPDATE row SET non_finite = -1", "-1 as non_finite in the row"),
    "more images than there are": ("UPDATE row SET images = 41", "41 as images in the row"),
    "negative trial": (COPIED.format("1, 1, -5"), "trial -5, expected an integer in"),
    "trial of 2^62": (COPIED.format(f"1, 1, {2**62}"), f"trial {2**62}, expected"),
    "unknown variant": (COPIED.format("9, 1, 0"), "a row of the variant 9 and the fault 1, which"),
    "failure of no cell": (
        "INSERT INTO failure VALUES (1, 77, 0, 1, 'odd')",
        "a failure of the variant 1 and the fault 77, which it does not list",
    ),
    "failure beyond all trials": (
        f"INSERT INTO failure VALUES (1, 1, {2**62}, 1, 'odd')",
        "in the failure of variant 1, fault 1, trial",
    ),
    "facts": ("UPDATE task SET facts = '{}'", "that do not have this digest"),
    "fault": (
        "UPDATE fault SET description = '[]' || id",
        "the fault 1 of the store must be a JSON",
    ),
    "rate": ("UPDATE fault SET ber = 2", "2.0 as ber in the row 1 of the table fault"),
    "trigger": (
        "CREATE TRIGGER odd AFTER INSERT ON row BEGIN DELETE FROM row; END",
        "the trigger 'odd', which no proact made",
    ),
    "view": ("CREATE VIEW odd AS SELECT 1", "the view 'odd', which no proact made"),
    "index": ("CREATE INDEX odd ON row (value)", "the index 'odd', which no proact made"),
    "table": ("DROP TABLE choice", "lacks the table choice"),
    "column": ("ALTER TABLE row RENAME loss TO lost", "lacks the column lo.* of row"),
    "session": ("UPDATE session SET run = 5", "5 as run in the row 1 of the table session"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_what_does_not_fit_is_named(prepared: Prepared, path: Path, kind: str) -> None:
    statement, words = TAMPERED[kind]
    execute(path, "PRAGMA foreign_keys = OFF", statement)
    before = path.read_bytes()
    for use in (lambda: read(path), lambda: prepared[0].run(path)):
        with pytest.raises(ProactError, match=words) as error:
            use()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000
    assert path.read_bytes() == before


KEYS: dict[str, tuple[Any, str]] = {
    "confidence": (1.5, r"1.5 as confidence, expected a number in \(0, 1\)"),
    "lowest": (float("nan"), "must have a finite number as 'lowest', got nan"),
    "trials": ("many", "must have a valid integer as 'trials', got 'many'"),
    "seed": (-1, "-1 as seed, expected an integer in"),
    "variants": ([], r"\[\] as variants, expected different names"),
    "stopped": ([1], r"\(1,\) as stopped, expected a number of trials for each cell"),
    "odd": (1, "has the key 'odd', which proact does not know"),
    "facts": ({}, "None as facts, expected the policy of the task"),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_a_run_that_do_not_fit_are_named(path: Path, key: str) -> None:
    value, words = KEYS[key]
    with closing(sqlite3.connect(path)) as writer:
        ((text,),) = writer.execute("SELECT description FROM run")
        changed = json.dumps({**json.loads(text), key: value})
        writer.execute("UPDATE run SET description = ?", (changed,))
        writer.commit()
    with pytest.raises(ProactError, match=words):
        read(path)


def test_a_damaged_page_is_named(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(ProactError, match="is damaged|cannot be used"):
        read(path)


def test_a_change_after_reading_is_noticed(path: Path) -> None:
    (result,) = read(path)
    assert result.cells
    execute(path, "UPDATE row SET value = 2.0 WHERE trial = 0")
    with pytest.raises(ProactError, match="2.0 as value"):
        result.details()


def test_rows_beyond_the_target_change_nothing(prepared: Prepared, path: Path) -> None:
    small, _, expected = prepared
    execute(path, COPIED.format("1, 1, 500"), COPIED.format(f"1, 2, {2**32 - 1}"))
    assert facts(read(path)[0]) == expected
    assert facts(small.run(path)) == expected


def test_the_command_line_ends_with_status_2(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(path, "UPDATE row SET value = 'high' WHERE trial = 3")
    assert main(["report", str(path), "--out", str(tmp_path / "page"), "--run", "1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: the store ")
    assert message.count("\n") == 1
    assert not (tmp_path / "page").exists()


def test_a_schema_is_not_trusted(path: Path) -> None:
    with Store(path, read_only=True) as store:
        assert store.execute("PRAGMA trusted_schema") == [(0,)]


def test_the_mutator_changes_what_it_says() -> None:
    import random

    changed = {edited(random.Random(seed), '{"a": [1, {"b": 2}]}')[1] for seed in range(60)}
    assert len(changed) > 15
