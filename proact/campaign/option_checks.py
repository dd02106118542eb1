"""Checks and conversions of the values of a campaign's options.

A check has the name of its option and raises ValueError or TypeError. A conversion returns what a
text or a value of a file stands for, and leaves everything else to the check.
"""

from __future__ import annotations

import json
from typing import Any

from proact.options import above_0
from proact.text import check_name, short_repr


def encoding(value: Any) -> object:
    from proact.faults.mixed_encoding import checked_encoding

    return checked_encoding(value)


def metric(value: Any) -> object:
    from proact.campaign.built_in_metrics import metric_named

    return metric_named(value)


def output(value: Any) -> object:
    is_selector = isinstance(value, (str, int)) or callable(value)
    if not is_selector or isinstance(value, bool):
        raise TypeError(
            "expected the name of an attribute or key, a position, or a function of the output, "
            f"got {short_repr(value)}"
        )
    return value


def strata(value: Any) -> object:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"expected 'auto', True or False, got {short_repr(value)}")
    return value


def margin(value: Any) -> object:
    if not isinstance(value, str):
        return above_0(value)
    share = share_of_loss(value)
    if share is None or not 0.0 < share < 1.0:
        raise ValueError(
            "expected a number above 0, or a share above 0 % and below 100 % as in '10%', got "
            f"{short_repr(value)}"
        )
    return value


def difference_margin(value: Any) -> object:
    if value is False:
        return value
    try:
        return above_0(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a number above 0, or False (off), got {short_repr(value)}"
        ) from None


def function(value: Any) -> object:
    if not callable(value):
        raise TypeError(f"expected a function, got {short_repr(value)}")
    return value


def images(value: Any) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (is_count or value in ("auto", "all")):
        raise ValueError(
            f"expected a number of images of at least 1, 'auto' or 'all', got {short_repr(value)}"
        )
    return value


def campaign_name(value: Any) -> object:
    return check_name("a campaign", value)


def notes(value: Any) -> object:
    try:
        text = json.dumps(dict(value))
        json.dumps(dict(value), ensure_ascii=False).encode()  # no lone surrogates
        return text
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected values that JSON can hold, got {short_repr(value)}: {error}"
        ) from None


def named_encoding(value: Any) -> object:
    from proact.faults.mixed_encoding import named_or_checked

    return named_or_checked(value)


def on_or_off(text: Any) -> Any:
    return {"on": True, "off": False}.get(text, text)


def number_or_text(text: Any) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def count_or_text(text: Any) -> Any:
    return int(text) if str(text).isdecimal() else text


def share_of_loss(text: str) -> float | None:
    """The share that a text such as ``"10%"`` states, or None."""
    number, percent, rest = text.partition("%")
    if not percent or rest.strip():
        return None
    try:
        return float(number) / 100.0
    except ValueError:
        return None
