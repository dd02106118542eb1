"""Parse variants and faults from texts and mappings."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from proact import faults, protect
from proact.config.config_errors import ConfigError
from proact.config.names import UNPROTECTED
from proact.encodings import Encoding
from proact.errors import closest, unknown
from proact.faults import BitFlip, Fault, fault_from_dict
from proact.faults.fault import StoredFault
from proact.text import check_name, short_repr, shortened

THRESHOLDS = ".safetensors"
_PLAIN = (UNPROTECTED, "unprotected")


@dataclass(frozen=True)
class MethodStep:
    """One method of protection with all of its options, including defaults."""

    method: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class VariantRecipe:
    """Describes how to protect a model.

    Attributes:
        steps: methods in the order of their application; empty for an unprotected model.
        thresholds: a file of `proact.protect.save`, instead of steps.
    """

    steps: tuple[MethodStep, ...] = ()
    thresholds: str | None = None

    @property
    def is_plain(self) -> bool:
        return not self.steps and self.thresholds is None

    def to_plain(self) -> Any:
        """Return the recipe as an experiment file states it."""
        if self.is_plain:
            return "unprotected"
        if self.thresholds is not None:
            return {"thresholds": self.thresholds}
        steps = [{"method": step.method, **_as_json(step.options)} for step in self.steps]
        return steps[0] if len(steps) == 1 else steps


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"ranger:mode=zero"`` into a method and its options; numbers and tuples are parsed."""
    method, _, listed = text.partition(":")
    options: dict[str, Any] = {}
    for item in _split_outside_brackets(listed) if listed else ():
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(
                f"expected an option name=value of {shortened(method)}, got {short_repr(item)}"
            )
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            options[name] = value
    return method, options


def _split_outside_brackets(text: str) -> list[str]:
    """Split a text at its commas, except those inside brackets."""
    cuts, depth = [-1], 0
    for position, char in enumerate(text):
        depth = max(0, depth + (char in "([{") - (char in ")]}"))
        if char == "," and not depth:
            cuts.append(position)
    return [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def variant_from_text(text: str) -> VariantRecipe:
    """Parse a variant.

    Args:
        text: ``"relu"`` (unprotected), a method with options such as
            ``"ranger:mode=zero,granularity=hybrid"``, several methods such as
            ``"proact+weight-range"``, or a file of thresholds such as ``"mine.safetensors"``.

    Raises:
        ConfigError: an unknown method or option, or a value that is not accepted.
    """
    if text in _PLAIN:
        return VariantRecipe()
    if text.endswith(THRESHOLDS):
        return VariantRecipe(thresholds=text)
    # A plus sign in a number such as 1e+3 is followed by a digit.
    parts = re.split(r"\+(?=[a-z])", text)
    return VariantRecipe(tuple(_step(*split_options(part)) for part in parts))


def variants_from(given: Any) -> dict[str, VariantRecipe]:
    """Parse variants by name.

    Args:
        given: a mapping of names to descriptions, or a list of texts, which also serve as names.

    Raises:
        ConfigError: no variants, a name twice, or an invalid description.
    """
    if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
        raise ConfigError(f"expected variants by name, got {short_repr(given)}")
    if not given:
        raise ConfigError("expected at least one variant, got none")
    if isinstance(given, Mapping):
        return {_name(name): _placed(name, described) for name, described in given.items()}
    found: dict[str, VariantRecipe] = {}
    for text in given:
        if not isinstance(text, str):
            raise ConfigError(
                f"expected methods in a list, or variants by name, got {short_repr(text)}"
            )
        name = Path(text).stem if text.endswith(THRESHOLDS) else text
        if name in found:
            raise ConfigError("expected distinct variants, got this one twice", (name,))
        found[name] = _placed(name, text)
    return found


def faults_from(given: Any) -> tuple[Fault, ...]:
    """Parse a list of faults; `fault_from_dict` describes each. Raises ConfigError."""
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"expected a list of faults, got {short_repr(given)}")
    if not given:
        raise ConfigError("expected at least one fault, got none")
    found: dict[Fault, None] = {}
    for index, described in enumerate(given):
        try:
            fault = described if isinstance(described, Fault) else fault_from(described)
        except ConfigError as error:
            raise error.within(index) from None
        if fault in found:
            raise ConfigError(
                f"expected distinct faults, got {shortened(str(fault))} twice", (index,)
            )
        found[fault] = None
    return tuple(found)


def fault_from(described: Any) -> Fault:
    """Parse one fault. The `ConfigError` of an unknown kind or field suggests the closest name."""
    if not isinstance(described, Mapping):
        raise ConfigError(
            f"expected a fault such as {{kind: BitFlip, ber: 1e-6}}, got {short_repr(described)}"
        )
    kinds = _kinds()
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        listed = f"expected a kind of fault out of {', '.join(kinds)}; got {short_repr(kind)}"
        raise ConfigError(f"{listed}{closest(kind, kinds)}", ("kind",))
    known = {f.name: f for f in fields(kinds[kind])}  # type: ignore[arg-type]
    for name in described:
        if name not in (*known, "kind"):
            hint = closest(name, known) or f"; expected one of {', '.join(known)}"
            raise ConfigError(f"{kind} has no field {short_repr(name)}{hint}", (str(name),))
    for name, f in known.items():
        if name not in described and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"expected the field {short_repr(name)} of {kind}, got none")
    try:
        return fault_from_dict(described)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from None


def stored_fault_from(described: Any) -> StoredFault:
    """Parse one fault in stored parameters. Raises ConfigError for other faults."""
    fault = described if isinstance(described, Fault) else fault_from(described)
    if not isinstance(fault, StoredFault):
        raise ConfigError(f"expected a fault in stored parameters, got {shortened(str(fault))}")
    return fault


def flips_at(rates: Any) -> list[Fault]:
    """Make a `BitFlip` for one bit error rate, or for each rate of a list. Raises ConfigError."""
    found: list[Fault] = []
    for index, rate in enumerate(rates if isinstance(rates, (list, tuple)) else [rates]):
        try:
            found.append(BitFlip(rate))
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error), (index,)) from None
    return found


def _placed(name: str, described: Any) -> VariantRecipe:
    try:
        return _variant(described)
    except ConfigError as error:
        raise error.within(name) from None


def _variant(described: Any) -> VariantRecipe:
    if isinstance(described, str):
        return variant_from_text(described)
    if isinstance(described, Mapping):
        if "thresholds" in described:
            return _saved(described)
        return VariantRecipe((_step_from(described),))
    if isinstance(described, list) and described:
        steps = []
        for index, each in enumerate(described):
            try:
                steps.append(_step_from(each))
            except ConfigError as error:
                raise error.within(index) from None
        return VariantRecipe(tuple(steps))
    raise ConfigError(
        "expected unprotected, a mapping with a method (or thresholds), or a list of those; got "
        f"{short_repr(described)}"
    )


def _saved(described: Mapping[str, Any]) -> VariantRecipe:
    for name in described:
        if name != "thresholds":
            raise ConfigError(
                f"expected thresholds alone, got {short_repr(name)} beside them", (str(name),)
            )
    if not isinstance(described["thresholds"], str):
        raise ConfigError(
            f"expected the name of a file, got {short_repr(described['thresholds'])}",
            ("thresholds",),
        )
    return VariantRecipe(thresholds=described["thresholds"])


def _step_from(described: Any) -> MethodStep:
    if isinstance(described, str):
        return _step(*split_options(described))
    if not isinstance(described, Mapping) or "method" not in described:
        raise ConfigError(
            f"expected a method, such as {{method: ranger}}, got {short_repr(described)}"
        )
    options = {str(name): _frozen(value) for name, value in described.items() if name != "method"}
    return _step(described["method"], options)


def _step(method: Any, options: dict[str, Any]) -> MethodStep:
    if method not in protect.methods():
        known = [UNPROTECTED, *protect.methods()]
        raise ConfigError(str(unknown("method", method, known)), ("method",))
    known = [f.name for f in fields(protect.check_options(method, {}))]
    for name in options:
        if name not in known:
            hint = closest(name, known)
            if hint:
                raise ConfigError(f"{method} has no option {short_repr(name)}{hint}", (name,))
            raise ConfigError(
                f"expected an option of {method} out of {', '.join(known)}; got {short_repr(name)}",
                (name,),
            )
    try:
        chosen = protect.check_options(method, options)
    except (ValueError, TypeError) as error:
        place = (next(iter(options)),) if len(options) == 1 else ()
        raise ConfigError(str(error), place) from None
    return MethodStep(method, {name: getattr(chosen, name) for name in known})


def _name(name: Any) -> str:
    try:
        return check_name("a variant", name)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _kinds() -> dict[str, type[Fault]]:
    public = {name: getattr(faults, name) for name in faults.__all__}
    return {
        name: kind
        for name, kind in public.items()
        if isinstance(kind, type) and issubclass(kind, Fault) and kind is not Fault
    }


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [plain(each) for each in value]
        return value.name if isinstance(value, Encoding) else value

    return {name: plain(value) for name, value in options.items()}
