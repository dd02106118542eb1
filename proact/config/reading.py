"""Option models from plain values: files, command lines, and both.

pydantic checks the types of plain values; the options' own checks, which Python callers meet too,
check the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

from proact.config import config_io
from proact.config.config_errors import ConfigError, from_pydantic, located
from proact.config.experiment import FORM, Experiment
from proact.errors import ProactError
from proact.options import Option, default_of, options_of

OptionModel = TypeVar("OptionModel")

#: Rates and faults say the same thing in two ways: giving one on the command line replaces both.
_TOGETHER = ("ber", "faults")


def read_options(
    model: type[OptionModel],
    values: Mapping[str, Any],
    source: str = "",
    flags: Mapping[str, str] | None = None,
) -> OptionModel:
    """An option model from plain values.

    Args:
        model: such as `proact.config.experiment.Experiment`.
        values: by option, as a file or a command line gives them.
        source: the beginning of an error message, such as the file's name.
        flags: the flag of each key that came from the command line.

    Raises:
        ValueError: one sentence with the path to the first wrong key, what was expected, what was
            given, and the closest name.
    """
    names = [name for name, declared in options_of(model).items() if declared.plain_type]
    try:
        for key in values:
            if not isinstance(key, str):
                raise ConfigError(f"expected a key that is a text, got {key!r}")
        try:
            checked = _schema(model).model_validate(dict(values))  # type: ignore[arg-type]
        except ValidationError as error:
            # An unknown key may explain what is missing elsewhere, and comes first.
            found = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
            raise from_pydantic(found[0], names) from None
        return model(**{name: getattr(checked, name) for name in checked.model_fields_set})
    except ConfigError as error:
        raise ValueError(located(error, source, flags or {})) from None


def read_experiment(
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Experiment:
    """The experiment in a .yaml, .yml or .toml file, with the values of a command line over it.

    Args:
        file: None: every key that is not given has its default.
        given: plain values by key, in place of those in the file.
        flags: the flag of each key in ``given``, for error messages.

    Raises:
        ValueError: what `read_options` raises. ProactError: a file that cannot be read, or whose
            form is newer than this proact.
    """
    values = config_io.read(file) if file is not None else {}
    given = dict(given or {})
    if given.keys() & set(_TOGETHER):
        values = {key: value for key, value in values.items() if key not in _TOGETHER}
    source = "" if file is None else str(file)
    _check_form(values.get("proact", FORM), source)
    experiment = read_options(Experiment, {**values, **given}, source, flags)
    try:
        experiment.all_faults  # noqa: B018
    except ConfigError as error:
        raise ValueError(located(error, source, flags or {})) from None
    return experiment


def write_experiment(experiment: Experiment, path: Path, remark: str = "") -> None:
    """Writes a YAML file that repeats an experiment; ``remark`` becomes a comment.

    Raises:
        ProactError: the file cannot be written.
    """
    comments = "".join(f"# {line}\n" for line in remark.splitlines())
    try:
        path.write_text(comments + config_io.dump(experiment.to_plain()), encoding="utf-8")
    except OSError as error:
        raise ProactError(f"{path} cannot be written: {error.strerror}") from None


@cache
def _schema(model: Any) -> type[BaseModel]:
    """The plain form of an option model: the types of its values in a file."""
    declared: dict[str, Any] = {}
    for name, each in options_of(model).items():
        if each.plain_type is not None:
            plain_type = each.plain_type
            if default_of(model, name) is None:
                plain_type = plain_type | None
            declared[name] = (Annotated[plain_type, AfterValidator(_converted(each))], None)
    config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    return create_model(model.__name__, __config__=config, **declared)


def _converted(declared: Option) -> Any:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        try:
            parsed = value if declared.parse is None else declared.parse(value)
            if declared.check is not None:
                declared.check(parsed)
        except ConfigError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from None
        return parsed

    return convert


def _check_form(form: Any, source: str) -> None:
    if isinstance(form, bool) or not isinstance(form, int) or form < 1:
        error = ConfigError(f"expected the form of the file, such as 1, got {form!r}", ("proact",))
        raise ValueError(located(error, source, {}))
    if form > FORM:
        newer = ConfigError(f"expected a form up to {FORM}, got {form}: update proact", ("proact",))
        raise ProactError(located(newer, source, {}))
