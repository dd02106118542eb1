"""Show names and sentences: every character visible, and no text longer than its place allows.

Names of variants, metrics, tensors and files are data. Three functions make text of them, and the
renderers of `proact.report` and `proact.cli` add what their format needs, such as HTML's escapes:

* `visible` shows a name so that different names stay different.
* `label` does the same and shortens long names.
* `printable` is for sentences, in which names are labels already.

`short_repr` shows a value of any type in a message.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from itertools import islice
from typing import Any

#: The most characters of a name in a sentence, and in tables for LaTeX and Markdown.
MOST_OF_NAME = 100
#: The most characters of a name in a cell of its own.
MOST_OF_CELL = 400
#: The most characters of a value in a message.
MOST_OF_VALUE = 80
#: The most characters of a line of a message.
MOST_OF_LINE = 2000

_DIGITS = 8
_MOST_ENTRIES, _MOST_BITS = 8, 256
# Characters without ink that `str.isprintable` accepts: a joiner, fillers of Hangul, vowels of
# Khmer, variation selectors and the blank of Braille. Most have Unicode's property
# Default_Ignorable_Code_Point.
_WITHOUT_INK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_PLAIN = re.compile(r"(?! )[ -\[\]-~]*(?<! )")  # printable ASCII without a backslash
# A backslash before one of these would read as an escape.
_ESCAPES = frozenset("\\nrtxuU")


def visible(name: str) -> str:
    r"""Return a name with the characters that cannot be seen written as escapes of Python.

    These are control and format characters (``\x1b``, ``\u202e``), lone surrogates, unassigned
    characters, spaces other than single ones between other characters, and combining characters
    where they are invisible: at the start, and where Unicode has a composed form (NFC) that looks
    the same. A backslash that would read as an escape is doubled. Different names give different
    texts: a reader of Python's escapes gets the name back.
    """
    if _PLAIN.fullmatch(name) and "  " not in name:
        return name
    is_composed = unicodedata.is_normalized("NFC", name)
    hidden = [
        _is_hidden(sign)
        or (sign == " " and (place in (0, len(name) - 1) or name[place - 1] == " "))
        or (not is_composed and _is_composable(sign))
        for place, sign in enumerate(name)
    ]
    if name and unicodedata.category(name[0]).startswith("M"):
        hidden[0] = True
    shown = []
    for place, sign in enumerate(name):
        following = place + 1
        if hidden[place]:
            shown.append(_escaped(sign))
        elif sign == "\\" and following < len(name):
            is_ambiguous = hidden[following] or name[following] in _ESCAPES
            shown.append("\\\\" if is_ambiguous else sign)
        else:
            shown.append(sign)
    return "".join(shown)


def label(name: object, most: int = MOST_OF_NAME) -> str:
    """Return ``visible(str(name))``; of a text longer than ``most`` characters, the two ends.

    Between the ends stand the first digits of the name's SHA-256, so that names which differ in the
    middle alone give different labels.

    Args:
        name: a text, or an object that ``str`` shows, such as a fault or a path.
        most: the most characters of the label, at least 12.
    """
    text = str(name)
    if len(text) > most:
        # Every character of the name is shown by one character at least.
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return _cut(visible(text[:most]), visible(text[-most:]), digest, most)
    shown = visible(text)
    if len(shown) <= most:
        return shown
    return _cut(shown, shown, hashlib.sha256(shown.encode()).hexdigest(), most)


def printable(sentences: str, most: int = MOST_OF_LINE) -> str:
    """Return sentences without characters that a terminal obeys.

    Line breaks stay. Other hidden characters, such as those of an error of the user's code, become
    escapes, and of a line longer than ``most`` characters the middle is left out. Escapes that are
    there already stay as they are.
    """
    lines = []
    for line in sentences.replace("\r\n", "\n").split("\n"):
        shown = "".join(_escaped(s) if _is_hidden(s) and s not in "\t\xa0" else s for s in line)
        if len(shown) > most:
            kept = most // 2
            shown = f"{shown[:kept]} … {shown[-kept:]}"
        lines.append(shown)
    return "\n".join(lines)


class _ShortRepr(reprlib.Repr):
    """Never makes the whole text of a large value: aliases of YAML may stand for gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = MOST_OF_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = _MOST_ENTRIES
        self.maxfrozenset = self.maxdeque = self.maxarray = _MOST_ENTRIES

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of thousands of digits.
        bits = x.bit_length()
        return repr(x) if bits <= _MOST_BITS else f"<an integer of {bits} bits>"

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        # reprlib sorts the keys; a message shows them as they were given.
        if not x or level <= 0:
            return "{...}" if x else "{}"
        shown = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join([*shown, *(['...'] if len(x) > self.maxdict else [])])}}}"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= MOST_OF_VALUE else f"{x[:MOST_OF_VALUE]!r}..."

    def repr_instance(self, x: Any, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_SHORT = _ShortRepr()


def short_repr(value: object) -> str:
    """The ``repr`` of a value for a message: one line of at most about `MOST_OF_VALUE` characters.

    The cost does not grow with the size of a text, list, mapping or integer.
    """
    return shortened(_SHORT.repr(value))


def shortened(text: str, most: int = MOST_OF_VALUE) -> str:
    """``text``, with its middle replaced by three dots if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept - kept // 3]}...{text[-(kept // 3) :]}"


def storable(text: str) -> str:
    """Return ``text`` with lone surrogates, which UTF-8 cannot hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def storable_values(value: Any) -> Any:
    """Return plain values with every text in them made `storable`, keys included."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable_values(key): storable_values(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable_values(each) for each in value]
    return value


def check_name(of: str, name: object) -> str:
    """Return ``name``, or raise an error for a name that can be neither shown nor stored.

    Args:
        of: the owner of the name, as in ``"a variant"``.
        name: expected to be a text with at least one character and no lone surrogate.

    Raises:
        TypeError: the name is no text.
        ValueError: the name is empty or has a lone surrogate.
    """
    if not isinstance(name, str):
        raise TypeError(f"expected a text as the name of {of}, got {short_repr(name)}")
    if not name:
        raise ValueError(f"expected a text as the name of {of}, got an empty one")
    if storable(name) != name:
        raise ValueError(
            f"the name of {of} has a lone surrogate, which UTF-8 cannot store: expected Unicode "
            f"text, got {short_repr(name)}"
        )
    return name


def _cut(start: str, end: str, digest: str, most: int) -> str:
    kept = most - _DIGITS - 2
    tail = kept // 2
    return f"{start[: kept - tail]}…{digest[:_DIGITS]}…{end[len(end) - tail :]}"


def _is_hidden(sign: str) -> bool:
    return not sign.isprintable() or _WITHOUT_INK.match(sign) is not None


def _is_composable(sign: str) -> bool:
    """Whether the composed form of a text may differ because of this character."""
    return (
        unicodedata.category(sign).startswith("M")
        or "\u1160" <= sign <= "\u11ff"  # vowels and final consonants of Hangul
        or unicodedata.normalize("NFC", sign) != sign
    )


def _escaped(sign: str) -> str:
    return r"\x20" if sign == " " else sign.encode("unicode_escape").decode()
