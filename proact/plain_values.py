"""Plain values of files and texts: JSON, and limits that hold for YAML and TOML as well.

A short text can stand for a very large value (aliases of YAML), a very deep one (brackets) or an
integer that takes minutes to write (digits). Such values are refused before they are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from proact.text import short_repr, shortened

#: The most values and characters that a text may stand for, aliases counted each time.
MOST_VALUES = 2_000_000
#: The deepest nesting of lists and mappings.
MOST_LEVELS = 50
#: The largest integer has as many bits.
MOST_BITS = 128
TOO_DEEP = f"lists and mappings are nested more than {MOST_LEVELS} levels deep"


def parse_json(
    text: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        object_pairs_hook: makes an object from its pairs, as for `json.loads`.

    Raises:
        ValueError: the text is not JSON, or its value is not within the limits of `check_limits`;
            or an error of ``object_pairs_hook``. The message is one sentence.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook, parse_int=parse_integer)
    except json.JSONDecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_limits(value, most=2 * len(text) + 1)  # JSON has no aliases
    return value


def parse_integer(digits: str) -> int:
    """An integer from its decimal digits; ValueError for one of more than `MOST_BITS` bits."""
    # A bit needs less than a third of a digit.
    if len(digits) > MOST_BITS // 3:
        raise ValueError(
            f"expected integers of at most {MOST_BITS} bits, got one of {len(digits)} digits "
            f"({shortened(digits, 20)})"
        )
    return int(digits)


def check_limits(value: Any, most: int = MOST_VALUES) -> None:
    """Check the size of a plain value, in a time that does not grow with the use of aliases.

    Args:
        value: lists, mappings, texts and numbers.
        most: the most values and characters.

    Raises:
        ValueError: more than ``most`` values and characters, more than `MOST_LEVELS` levels, or an
            integer of more than `MOST_BITS` bits.
    """
    if _measured(value, 0, {})[0] > most:
        raise ValueError(
            f"the text stands for more than {most:,} values and characters, aliases counted each "
            "time"
        )


def _measured(value: Any, level: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The number of values and characters in ``value``, and of levels below it.

    ``known`` holds those of containers by identity, because an alias is the same object.
    """
    if isinstance(value, str):
        return len(value) + 1, 0
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError(f"expected integers of at most {MOST_BITS} bits, got {short_repr(value)}")
    if not isinstance(value, (list, dict)):
        return 1, 0
    count, height = known.get(id(value), (0, 0))
    if level + height > MOST_LEVELS:
        raise ValueError(TOO_DEEP)
    if not count:
        parts = value if isinstance(value, list) else [*value, *value.values()]
        measured = [_measured(part, level + 1, known) for part in parts]
        count = 1 + sum(each for each, _ in measured)
        height = 1 + max((each for _, each in measured), default=0)
        known[id(value)] = count, height
    return count, height
