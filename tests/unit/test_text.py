"""Are all characters of a name seen, do different names stay different, and are long ones cut?"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.names import FRAGMENTS, hostile_names, with_surrogate
from proact.errors import closest, unknown
from proact.text import (
    MOST_OF_LINE,
    MOST_OF_NAME,
    check_name,
    label,
    printable,
    short_repr,
    storable,
    visible,
)

#: Pairs that look the same where nothing is escaped.
ALIKE = [
    ("relu", "relu "),
    ("relu", " relu"),
    ("a b", "a  b"),
    ("a b", "a\xa0b"),
    ("a", "a\u200b"),
    ("a", "a\u034f"),
    ("a", "\u3164a"),
    ("a", "a\ufe0f"),
    ("\u00e9", "e\u0301"),
    ("\ud55c", "\u1112\u1161\u11ab"),
    ("\u2126", "\u03a9"),
    ("a\nb", "a\\nb"),
    ("a\\", "a\\\\"),
    ("\x1b", "\\x1b"),
    ("a\\\nb", "a\\\\nb"),
    ("a" * 100_000, "a" * 100_001),
    ("a" * 50_000 + "b" + "a" * 50_000, "a" * 50_000 + "c" + "a" * 50_000),
    ("a" * 5_000 + " " + "a" * 5_000, "a" * 5_000 + "\u200b" + "a" * 5_000),
]

ANY = st.text(st.one_of(st.characters(), st.sampled_from("\\nxuU \u0301e\u1161\u11a8\ud7a3\ud83d")))


def read(shown: str) -> str:
    """The name that `visible` shows: Python's escapes are read, other backslashes stay."""
    found, place = "", 0
    digits = {"x": 2, "u": 4, "U": 8}
    plain = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    while place < len(shown):
        following = shown[place + 1 : place + 2]
        if shown[place] != "\\" or following not in (*digits, *plain):
            found, place = found + shown[place], place + 1
        elif following in plain:
            found, place = found + plain[following], place + 2
        else:
            end = place + 2 + digits[following]
            found, place = found + chr(int(shown[place + 2 : end], 16)), end
    return found


@given(ANY)
def test_a_reader_of_escapes_gets_the_name_back(name: str) -> None:
    shown = visible(name)
    assert shown.isprintable()
    assert shown == shown.strip(" ")
    assert "  " not in shown
    assert read(shown) == name
    assert unicodedata.is_normalized("NFC", shown)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_fragment_is_read_back(fragment: str) -> None:
    for name in (fragment, f"a{fragment}", f"{fragment}a", fragment * 2, f"\\{fragment}\\"):
        assert read(visible(name)) == name


@pytest.mark.parametrize("pair", ALIKE, ids=range(len(ALIKE)))
def test_names_that_look_alike_have_different_labels(pair: tuple[str, str]) -> None:
    shown = [unicodedata.normalize("NFC", label(name)) for name in pair]
    assert shown[0] != shown[1]
    assert max(map(len, shown)) <= MOST_OF_NAME


@pytest.mark.parametrize("plain", ["relu", "résumé", "网络", "a b", "Ranger, mode=zero", "C:\\dir"])
def test_plain_names_are_shown_as_they_are(plain: str) -> None:
    assert visible(plain) == label(plain) == printable(plain) == plain


@pytest.mark.parametrize("most", [28, 48, MOST_OF_NAME])
def test_labels_of_many_names_are_short_and_different(most: int) -> None:
    names = hostile_names(seed=1, number=1000)
    shown = [label(name, most) for name in names]
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= most
    assert all(each.isprintable() for each in shown)


def test_sentences_keep_their_lines_and_escapes() -> None:
    text = "a\x1b[31m\r\nthe name \\x1b is 95\xa0%\tlong\u202e\ud800"
    assert printable(text) == "a\\x1b[31m\nthe name \\x1b is 95\xa0%\tlong\\u202e\\ud800"
    assert printable(printable(text)) == printable(text)
    long = printable("begin " + 100_000 * "x" + " end\nnext")
    assert len(long) < MOST_OF_LINE + 20
    assert long.startswith("begin x")
    assert long.endswith("x end\nnext")


@pytest.mark.parametrize("name", [3, None, b"relu", ("relu",)])
def test_names_are_texts(name: object) -> None:
    with pytest.raises(TypeError, match="expected a text as the name of a variant, got"):
        check_name("a variant", name)


@pytest.mark.parametrize("seed", range(5))
def test_half_of_a_surrogate_pair_is_refused(seed: int) -> None:
    name = with_surrogate("relu" + 100_000 * "x", seed)
    with pytest.raises(ValueError, match="lone surrogate, which UTF-8 cannot store") as refused:
        check_name("a variant", name)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()
    assert storable(name).encode()
    with pytest.raises(ValueError, match="got an empty one"):
        check_name("a variant", "")


def test_unknown_names_make_short_messages() -> None:
    names = hostile_names(seed=2, number=200)
    for name in names:
        message = str(unknown("variant", name, ["relu", name + "x", "\x1b[2J", 100_000 * "y"]))
        assert message.isprintable()
        assert len(message) < 600
    assert closest("rleu", ["relu", 100_000 * "r"]) == "; did you mean 'relu'?"
    assert short_repr("a\x1b") == "'a\\x1b'"
