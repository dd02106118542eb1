"""Declare options once, as fields of a frozen dataclass.

The command line (`proact.cli`), the schema of experiment files (`proact.config`) and the keyword
arguments of Python functions are all made from these fields. To add an option, add a field:

    @dataclass(frozen=True, kw_only=True)
    class CampaignOptions(Options):
        confidence: float = option(
            0.95, "Two-sided confidence level of the intervals, in (0, 1).", float,
            check=between_0_and_1,
        )

This module imports nothing heavy, so that help pages do not load torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proact.errors import unknown
from proact.limits import cores, most_workers
from proact.text import short_repr

_METADATA = "proact.option"


@dataclass(frozen=True)
class Option:
    """The declaration of an option beyond the name, type and default of its field.

    Attributes:
        help: one or two sentences with the unit and the ends of the range.
        plain_type: the type of the value in a file and on the command line; None for an option
            that exists in Python only.
        metavar: the placeholder of the value in a help page.
        flag: the name on the command line, if it differs from the field's name; the empty string
            for an option of files only.
        default_text: describes the default in a help page, if its value is not descriptive.
        names: the values that a shell completes.
        check: raises `ValueError` or `TypeError` for a value that is not accepted, with a sentence
            that states the expected and the given value. It never gets None.
        parse: makes the value from its plain form; the identity by default.
        from_text: makes the plain form from the text on the command line.
        accepts_none: whether None is accepted although it is not the default.
    """

    help: str
    plain_type: Any = None
    metavar: str | None = None
    flag: str | None = None
    default_text: str | None = None
    names: Sequence[str] = ()
    check: Callable[[Any], object] | None = None
    parse: Callable[[Any], Any] | None = None
    from_text: Callable[[Any], Any] | None = None
    accepts_none: bool = False


def option(
    default: Any,
    help: str,  # noqa: A002
    plain_type: Any = None,
    **more: Any,
) -> Any:
    """Make a dataclass field with its `Option`; ``more`` are further attributes of `Option`.

    A callable default is called to make the value.
    """
    return _field(default, Option(help, plain_type, **more))


def with_default(model: type[Any], name: str, default: Any) -> Any:
    """Copy the field ``name`` of another option model with another default."""
    return _field(default, options_of(model)[name])


def with_check(model: type[Any], name: str, check: Callable[[Any], object]) -> Any:
    """Copy the field ``name`` of another option model with another check of its value."""
    declared = dataclasses.replace(options_of(model)[name], check=check)
    return _field(default_of(model, name), declared)


def _field(default: Any, declared: Option) -> Any:
    metadata = {_METADATA: declared}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(model: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass by field name, in the order of declaration."""
    return {
        field.name: field.metadata[_METADATA]
        for field in dataclasses.fields(model)
        if _METADATA in field.metadata
    }


def default_of(model: type[Any], name: str) -> Any:
    """Return the default of a field."""
    (field,) = (field for field in dataclasses.fields(model) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@dataclass(frozen=True)
class Options:
    """Base of all option models. An error about a value starts with the name of its field."""

    def __post_init__(self) -> None:
        for name, declared in options_of(type(self)).items():
            value = getattr(self, name)
            if value is None:
                if not declared.accepts_none and default_of(type(self), name) is not None:
                    raise TypeError(f"{name}: expected a value, got None")
                continue
            if declared.check is not None:
                named(name, declared.check)(value)


def named(name: str, check: Callable[[Any], object]) -> Callable[[Any], object]:
    """Make a check whose errors start with the name of the value."""

    def checked(value: Any) -> object:
        try:
            return check(value)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from None

    return checked


def integer(least: int, below: int | None = None) -> Callable[[Any], object]:
    """Make a check: the value is an integer in [``least``, ``below``)."""
    span = f"of at least {least}" if below is None else f"in [{least}, {_power(below)})"

    def check(value: Any) -> object:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"expected an integer {span}, got {short_repr(value)}")
        if not (least <= value and (below is None or value < below)):
            raise ValueError(f"expected an integer {span}, got {short_repr(value)}")
        return value

    return check


def for_this_machine(value: Any) -> object:
    """Check that a number of processes or threads is from 1 to `limits.most_workers`."""
    integer(1)(value)
    if value > most_workers():
        raise ValueError(
            f"expected at most {most_workers()} on this machine, which has {cores()} cores, got "
            f"{short_repr(value)}"
        )
    return value


def one_of(*names: str) -> Callable[[Any], object]:
    """Make a check: the value is one of some names."""

    def check(value: Any) -> object:
        if value not in names:
            raise unknown("value", value, names)
        return value

    return check


def true_or_false(value: Any) -> object:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"expected True or False, got {short_repr(value)}")
    return value


def number(value: Any) -> float:
    """Check that a value is an int or float, but not a bool; return it as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {short_repr(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"expected a number of float64, got {short_repr(value)}") from None


def at_least_0(value: Any) -> object:
    """Check that a value is a finite number of at least 0."""
    if not 0.0 <= number(value) < float("inf"):
        raise ValueError(f"expected a finite number of at least 0, got {short_repr(value)}")
    return value


def above_0(value: Any) -> object:
    """Check that a value is a finite number above 0."""
    if not 0.0 < number(value) < float("inf"):
        raise ValueError(f"expected a finite number above 0, got {short_repr(value)}")
    return value


def between_0_and_1(value: Any) -> object:
    """Check that a value is a number in (0, 1)."""
    if not 0.0 < number(value) < 1.0:
        raise ValueError(f"expected a number in (0, 1), got {short_repr(value)}")
    return value


def _power(bound: int) -> str:
    exponent = bound.bit_length() - 1
    return f"2^{exponent}" if bound >= 1 << 16 and bound == 1 << exponent else str(bound)
