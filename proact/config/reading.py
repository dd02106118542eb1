"""Build option models from the plain values of files and command lines.

pydantic checks the types of plain values. The checks of the options, which also apply to Python
callers, check ranges and names.
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
from proact.text import short_repr
from proact.yaml_text import dump

OptionModel = TypeVar("OptionModel")

#: Both keys state faults, so either one on the command line replaces both keys of the file.
_TOGETHER = ("ber", "faults")


def read_options(
    model: type[OptionModel],
    values: Mapping[str, Any],
    source: str = "",
    flags: Mapping[str, str] | None = None,
) -> OptionModel:
    """Build an option model from plain values.

    Args:
        model: the class, such as `proact.config.experiment.Experiment`.
        values: plain values by option, from a file or a command line.
        source: the beginning of an error message, such as the name of the file.
        flags: the flag of each key that came from the command line.

    Raises:
        ValueError: a key is unknown or a value is not accepted. The message is one sentence with
            the path to the first invalid key, the expected and the given value, and the closest
            name.
    """
    names = [name for name, declared in options_of(model).items() if declared.plain_type]
    try:
        for key in values:
            if not isinstance(key, str):
                raise ConfigError(f"expected a text as a key, got {short_repr(key)}")
        try:
            checked = _schema(model).model_validate(dict(values))  # type: ignore[arg-type]
        except ValidationError as error:
            # An unknown key may cause other errors, so it comes first.
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
    """Read an experiment from a .yaml, .yml or .toml file and a command line.

    Args:
        file: the file; None uses the default of every key that is not given.
        given: plain values by key, which replace those of the file.
        flags: the flag of each key in ``given``, for error messages.

    Raises:
        ValueError: the errors of `read_options`.
        ProactError: the file cannot be read, or its version is newer than this proact supports.
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
    """Write a YAML file that repeats an experiment; ``remark`` becomes a comment.

    Raises:
        ProactError: the file cannot be written.
    """
    comments = "".join(f"# {line}\n" for line in remark.splitlines())
    try:
        path.write_text(comments + dump(experiment.to_plain()), encoding="utf-8")
    except OSError as error:
        raise ProactError(f"{path} cannot be written: {error.strerror}") from None


@cache
def _schema(model: Any) -> type[BaseModel]:
    """Make the pydantic model of the plain values of an option model."""
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
        error = ConfigError(
            f"expected the version of the file, such as 1, got {short_repr(form)}", ("proact",)
        )
        raise ValueError(located(error, source, {}))
    if form > FORM:
        newer = ConfigError(
            f"expected a version up to {FORM}, got {short_repr(form)}: update proact", ("proact",)
        )
        raise ProactError(located(newer, source, {}))
