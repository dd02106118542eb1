"""The options of an experiment: model, data, variants, faults and precision.

`Experiment` is the one model of a campaign from which the options of ``proact campaign``, the keys
of an experiment file and their checks follow. It extends `proact.campaign.CampaignOptions` by the
names of models and data. This module imports nothing heavy: help pages read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from proact.campaign.options import CampaignOptions
from proact.config.config_errors import ConfigError
from proact.config.names import (
    UNPROTECTED,
)
from proact.config.setup_options import SetupOptions
from proact.errors import unknown
from proact.options import (
    above_0,
    for_this_machine,
    integer,
    option,
    with_default,
)
from proact.plain_values import parse_json
from proact.protect.registry import METHODS
from proact.text import shortened

if TYPE_CHECKING:
    from proact.config.parsing import VariantRecipe
    from proact.faults import Fault
    from proact.faults.fault import StoredFault
    from proact.faults.mixed_encoding import EncodingLike

#: The version of experiment files that this proact writes, and the newest that it reads.
FORM = 1
#: The default variants and bit error rates.
DEFAULT_VARIANTS = (UNPROTECTED, "ranger", "proact", "weight-range")
DEFAULT_BERS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def _variants(value: Any) -> Mapping[str, VariantRecipe]:
    from proact.config.parsing import variants_from

    return variants_from(value)


def _faults(value: Any) -> tuple[Fault, ...]:
    from proact.config.parsing import faults_from

    return faults_from(value)


def _rates(value: Any) -> tuple[float, ...]:
    from proact.config.parsing import flips_at

    flips_at(value)
    rates: list[float] = []
    for index, rate in enumerate(value if isinstance(value, (list, tuple)) else [value]):
        if rate in rates:
            raise ConfigError(f"expected different rates, got {rate:g} twice", (index,))
        rates.append(float(rate))
    return tuple(rates)


def _sweep_fault(value: Any) -> StoredFault:
    from proact.config.parsing import stored_fault_from

    return stored_fault_from(value)


def _one_flip() -> StoredFault:
    from proact.faults import ExactFlips

    return ExactFlips(1)


def _sweeps(value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    for each in given:
        if each not in ("layer", "bit"):
            raise unknown("sweep", each, ("layer", "bit"))
    return tuple(dict.fromkeys(given))


def _split_rates(texts: Any) -> list[Any]:
    def number(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    return [number(text) for each in texts for text in str(each).split(",")]


def _json(text: Any) -> Any:
    try:
        return parse_json(text)
    except (TypeError, ValueError):
        return text


def _json_list(texts: Any) -> list[Any]:
    return [_json(text) for text in texts]


@dataclass(frozen=True, kw_only=True)
class Experiment(SetupOptions):
    """An experiment: a file, the options of ``proact campaign``, or both.

    Every key has a default; `to_plain` lists all keys. Relative paths are relative to the working
    directory, not to the file. Each field is documented by its help text.

    Raises:
        ValueError, TypeError: an option has a value that is not accepted.
    """

    encoding: EncodingLike = with_default(CampaignOptions, "encoding", "q15.16")
    proact: int = option(FORM, "Version of the file format.", int, flag="")
    variants: Mapping[str, VariantRecipe] = option(
        lambda: _variants(DEFAULT_VARIANTS),
        f"A variant; the first is the baseline: {UNPROTECTED} (unprotected), "
        f"{', '.join(METHODS)}; with options as in ranger:mode=zero,granularity=hybrid, several "
        "methods as in proact+weight-range, or a file of thresholds (*.safetensors). Repeat the "
        "option for each variant.",
        list[str] | dict[Any, Any],
        flag="--variant",
        metavar="VARIANT",
        default_text=" ".join(DEFAULT_VARIANTS),
        names=(UNPROTECTED, *METHODS),
        parse=_variants,
    )
    ber: tuple[float, ...] | None = option(
        None,
        "Bit error rates, probabilities per stored bit in [0, 1], as in 1e-6,1e-5: each is a fault "
        "of kind BitFlip. The option can be repeated.",
        list[Any] | float,
        flag="--ber",
        metavar="BER",
        default_text=",".join(f"{rate:g}" for rate in DEFAULT_BERS),
        parse=_rates,
        from_text=_split_rates,
    )
    faults: tuple[Fault, ...] | None = option(
        None,
        'Another fault as JSON, as in {"kind": "ExactFlips", "n": 3}. The option can be repeated.',
        list[Any],
        flag="--fault",
        metavar="JSON",
        parse=_faults,
        from_text=_json_list,
    )
    workers: int | None = option(
        None,
        "Processes that run trials (count).",
        int,
        metavar="COUNT",
        default_text="one per core, or none if the work is short",
        check=for_this_machine,
    )
    scheduler: str | None = option(
        None,
        "Address of a Dask scheduler whose workers run the trials: tcp://host:port.",
        str,
        metavar="ADDRESS",
    )
    sweeps: tuple[Literal["layer", "bit"], ...] = option(
        tuple,
        "Also measure the loss from faults in one layer or bit at a time: layer or bit. The option "
        "can be repeated.",
        list[str] | str,
        flag="--sweep",
        metavar="KIND",
        names=("layer", "bit"),
        parse=_sweeps,
    )
    sweep_variants: tuple[str, ...] = option(
        tuple,
        "Variant to sweep. The option can be repeated.",
        list[str],
        flag="--sweep-variant",
        metavar="VARIANT",
        default_text="the baseline",
        parse=tuple,
    )
    sweep_fault: StoredFault = option(
        _one_flip,
        "Fault that hits one layer or bit at a time, as JSON.",
        dict[str, Any],
        metavar="JSON",
        default_text='{"kind": "ExactFlips", "n": 1}',
        parse=_sweep_fault,
        from_text=_json,
    )
    sweep_margin: float | None = option(
        None,
        "Margin of all layers (bits) together.",
        float,
        metavar="MARGIN",
        default_text="the margin of the cells, unless --sweep-trials is given",
        check=above_0,
    )
    sweep_trials: int | None = option(
        None,
        "Fault patterns of all layers (bits) together (count).",
        int,
        metavar="COUNT",
        check=integer(1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.scheduler is not None:
            raise ConfigError("expected workers or a scheduler, got both", ("scheduler",))
        for index, name in enumerate(self.sweep_variants):
            if name not in self.variants:
                error = unknown("variant", name, self.variants)
                raise ConfigError(str(error), ("sweep_variants", index))
        goals = (self.sweep_margin, self.sweep_trials)
        if self.sweeps and self.relative_margin is not None and goals == (None, None):
            raise ConfigError(
                f"expected a number, or sweep_trials, because the margin of the cells, "
                f"{self.margin}, is a share of their loss; got neither",
                ("sweep_margin",),
            )

    @property
    def baseline(self) -> str:
        """The first variant, with which the others are compared."""
        return next(iter(self.variants))

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """The flips at each rate, then the other faults; by default the flips at default rates.

        Raises:
            ConfigError: no fault is given, or one twice.
        """
        from proact.config.parsing import flips_at

        if not self.rates and not self.faults:
            raise ConfigError("expected at least one rate or fault, got none", ("ber",))
        found: list[Fault] = list(flips_at(self.rates))
        seen = set(found)
        for index, fault in enumerate(self.faults or ()):
            if fault in seen:
                raise ConfigError(
                    f"expected different faults, got {shortened(str(fault))} twice",
                    ("faults", index),
                )
            found.append(fault)
            seen.add(fault)
        return tuple(found)

    @property
    def rates(self) -> tuple[float, ...]:
        """The bit error rates per stored bit; the default ones if no fault is given."""
        if self.ber is None and self.faults is None:
            return DEFAULT_BERS
        return self.ber or ()

    @property
    def encoding_name(self) -> str:
        """The name of the encoding; encodings by tensor as JSON."""
        from proact.faults.mixed_encoding import checked_encoding

        return checked_encoding(self.encoding).name

    @property
    def swept(self) -> list[tuple[str, Literal["layer", "bit"]]]:
        """The sweeps to run, as (variant, kind)."""
        names = self.sweep_variants or (self.baseline,)
        return [(name, kind) for name in names for kind in self.sweeps]

    @property
    def campaign_options(self) -> dict[str, Any]:
        """The keyword arguments that `proact.campaign.run` takes from this experiment.

        Raises:
            ValueError, TypeError, ProactError: the user's code cannot be loaded.
        """
        from proact.config.user_code import load_function, load_metric

        values = {field.name: getattr(self, field.name) for field in fields(CampaignOptions)}
        return {
            **values,
            "metric": load_metric(self.metric),
            **{
                name: load_function(name, values[name]) for name in ("forward", "collate", "output")
            },
        }

    @property
    def protect_options(self) -> dict[str, Any]:
        """The keyword arguments that `proact.protect.protect` takes from this experiment.

        Raises:
            ValueError, TypeError, ProactError: the user's code cannot be loaded.
        """
        from proact.config.user_code import load_function

        return {
            "loss": load_function("loss", self.loss),
            "metric": load_function("validation_metric", self.validation_metric),
            "forward": load_function("forward", self.forward),
            "output": load_function("output", self.output),
        }

    def to_plain(self) -> dict[str, Any]:
        """Return all keys as values that JSON and YAML can hold; reading them is the inverse."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **plain,
            "encoding": self._plain_encoding(),
            "margin": self.margin_or_default,
            "variants": {name: recipe.to_plain() for name, recipe in self.variants.items()},
            "ber": list(self.rates),
            "faults": self.faults and [fault.to_dict() for fault in self.faults],
            "sweeps": list(self.sweeps),
            "sweep_variants": list(self.sweep_variants),
            "sweep_fault": self.sweep_fault.to_dict(),
        }

    def _plain_encoding(self) -> Any:
        from proact.faults.mixed_encoding import MixedEncoding, checked_encoding

        encoding = checked_encoding(self.encoding)
        return encoding.to_plain() if isinstance(encoding, MixedEncoding) else encoding.name
