"""An experiment: what is measured, on what, how, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from proact.campaign.metrics import METRICS
from proact.config import config_io, defaults
from proact.config.config_errors import Wrong, closest, sentence_of, told
from proact.config.parsing import Variant, fault_from, faults_from, flips_at, variants_from
from proact.config.user_code import check_data_name, check_model_name
from proact.encodings import encoding_named
from proact.errors import ProactError, unknown
from proact.faults import ExactFlips, Fault
from proact.faults.kinds import StoredFault
from proact.ops.plan import SEEDS, TRIALS


def _integer(least: int, below: int, span: str) -> AfterValidator:
    def checked(value: int | None) -> int | None:
        if value is not None and not least <= value < below:
            raise Wrong(f"expected an integer {span}, got {value}")
        return value

    return AfterValidator(checked)


def _share(with_one: bool) -> AfterValidator:
    def checked(value: float | None) -> float | None:
        if value is not None and not (0 < value < 1 or (with_one and value == 1)):
            raise Wrong(f"expected a number in (0, 1{']' if with_one else ')'}, got {value}")
        return value

    return AfterValidator(checked)


def _accepted(check: Callable[[str], object]) -> AfterValidator:
    """A text of which ``check`` does not complain."""

    def checked(value: str) -> str:
        try:
            check(value)
        except ValueError as error:
            raise Wrong(str(error)) from None
        return value

    return AfterValidator(checked)


def _check_metric(name: str) -> None:
    if name not in METRICS:
        raise unknown("metric", name, METRICS)


def _check_encoding(name: str) -> None:
    try:
        encoding_named(name)
    except ValueError as error:
        known = ("float16", "bfloat16", "float32", "float64", "int8", "int8-tensor", "native")
        raise ValueError(f"{error}{closest(name, known)}") from None


def _images(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_number and value not in ("auto", "all"):
        raise Wrong(f"expected a number of images from 1 on, 'auto' or 'all', got {value!r}")
    return value


def _sweeps(value: Any) -> Any:
    given = [value] if isinstance(value, str) else value
    if isinstance(given, (list, tuple)):
        for each in given:
            if each not in ("layer", "bit"):
                raise Wrong(str(unknown("sweep", each, ("layer", "bit"))))
        return list(dict.fromkeys(given))
    raise Wrong(f"expected 'layer', 'bit' or a list of them, got {value!r}")


def _sweep_fault(value: Any) -> StoredFault:
    fault = value if isinstance(value, Fault) else fault_from(value)
    if not isinstance(fault, StoredFault):
        raise Wrong(f"a sweep takes faults in stored parameters, got {fault}")
    return fault


_FROM_ONE = _integer(1, 1 << 62, "from 1 on")
_Count = Annotated[int | None, _FROM_ONE]
_Trials = Annotated[int | None, _integer(1, TRIALS, "in [1, 2^32)")]
_Margin = Annotated[float | None, _share(with_one=True)]


class Experiment(BaseModel):
    """The keys of an experiment file. `read` makes one; every key has a default.

    Attributes:
        proact: the version of the form of the file.
        network: a name of `proact.models.names`, trained if needed, or ``file.py:attribute`` or
            ``module:attribute`` of the user's own.
        data: a name of `proact.data.names`, or the user's own.
        data_folder, download, image_size: as for `proact.data.load`.
        variants: by name, how each is protected; the first is the baseline.
        faults: one cell a variant and fault.
        encoding: the stored form of the parameters.
        margin, trials, confidence, images_per_trial, metric, seed: as for `proact.campaign.run`;
            the seed decides weights too.
        threads: of torch (count); the last digits of trained weights depend on it.
        workers: processes that run trials; None: as many as there are cores, where it is worth it.
        scheduler: address of a Dask scheduler whose workers run them instead.
        sweeps: ``"layer"`` and ``"bit"``: which parts of the network or its words hurt most.
        sweep_variants: of which variants; the baseline's unless told.
        sweep_fault: what hits one layer or bit at a time.
        sweep_margin, sweep_trials: of all layers (bits) together, as ``margin`` and ``trials`` are
            a cell's; the margin is that of the cells, or 0.01, where neither is given.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )

    proact: int = defaults.FORM
    network: Annotated[str, _accepted(check_model_name)] = defaults.NETWORK
    data: Annotated[str, _accepted(check_data_name)] = defaults.DATA
    data_folder: str | None = None
    download: bool = False
    image_size: Annotated[int, _FROM_ONE] = defaults.IMAGE_SIZE
    variants: Annotated[dict[str, Variant], PlainValidator(variants_from)] = Field(
        default_factory=lambda: variants_from(defaults.METHODS)
    )
    faults: Annotated[tuple[Fault, ...], PlainValidator(faults_from)] = Field(
        default_factory=lambda: tuple(flips_at(defaults.BERS))
    )
    encoding: Annotated[str, _accepted(_check_encoding)] = defaults.ENCODING
    margin: _Margin = None
    trials: _Trials = None
    confidence: Annotated[float, _share(with_one=False)] = defaults.CONFIDENCE
    images_per_trial: Annotated[int | str, BeforeValidator(_images)] = defaults.IMAGES_PER_TRIAL
    metric: Annotated[str, _accepted(_check_metric)] = defaults.METRIC
    seed: Annotated[int, _integer(0, SEEDS, "in [0, 2^63)")] = defaults.SEED
    threads: Annotated[int, _FROM_ONE] = defaults.THREADS
    workers: _Count = None
    scheduler: str | None = None
    sweeps: Annotated[list[Literal["layer", "bit"]], BeforeValidator(_sweeps)] = []
    sweep_variants: list[str] = []
    sweep_fault: Annotated[StoredFault, PlainValidator(_sweep_fault)] = ExactFlips(1)
    sweep_margin: _Margin = None
    sweep_trials: _Trials = None

    @staticmethod
    def read(
        values: Mapping[str, Any], source: str = "", flags: Mapping[str, str] | None = None
    ) -> Experiment:
        """The experiment that plain values describe.

        Args:
            values: by key, as a file or flags have them. ``ber`` is short for faults: a `BitFlip`
                for each of the bit error rates in it, before those in ``faults``.
            source: what errors begin with, such as the file's name.
            flags: the flag of each key that came from the command line instead.

        Raises:
            ValueError: one sentence with the path to the first key that is wrong, what was
                expected, and the closest name. ProactError: a form that is newer than this proact.
        """
        _check_form(values.get("proact", defaults.FORM), source)
        keys = [*Experiment.model_fields, "ber"]
        for key in values:
            if not isinstance(key, str):
                raise ValueError(
                    told(f"expected a key that is a text, got {key!r}", (), source, {})
                )
        try:
            return Experiment.model_validate(dict(values))
        except ValidationError as error:
            found = error.errors()
            # A key that does not exist explains what is missing elsewhere.
            found.sort(key=lambda each: each["type"] != "extra_forbidden")
            sentence, place = sentence_of(found[0], keys)
            raise ValueError(told(sentence, place, source, flags or {})) from None

    @staticmethod
    def read_file(path: Path) -> Experiment:
        """The experiment in a .yaml, .yml or .toml file. Relative paths in it are relative to the
        working directory. Raises what `read` and `config_io.read` do."""
        return Experiment.read(config_io.read(path), str(path))

    @property
    def baseline(self) -> str:
        """The variant that others are compared with."""
        return next(iter(self.variants))

    @property
    def swept(self) -> list[tuple[str, Literal["layer", "bit"]]]:
        """The sweeps to run: variants and kinds."""
        names = self.sweep_variants or [self.baseline]
        return [(name, kind) for name in names for kind in self.sweeps]

    def to_plain(self) -> dict[str, Any]:
        """In terms of JSON and YAML, every default spelled out; `read` gives the same again."""
        values = {name: getattr(self, name) for name in Experiment.model_fields}
        return {
            **values,
            "variants": {name: variant.to_plain() for name, variant in self.variants.items()},
            "faults": [fault.to_dict() for fault in self.faults],
            "sweep_fault": self.sweep_fault.to_dict(),
        }

    def write(self, path: Path, remark: str = "") -> None:
        """Writes a YAML file that repeats this experiment; ``remark`` stands in it as comments.

        Raises:
            ProactError: the file cannot be written.
        """
        comments = "".join(f"# {line}\n" for line in remark.splitlines())
        try:
            path.write_text(comments + config_io.dump(self.to_plain()), encoding="utf-8")
        except OSError as error:
            raise ProactError(f"{path} cannot be written: {error.strerror}") from None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        values = dict(given)
        if "ber" in values:
            try:
                flips = flips_at(values.pop("ber"))
            except Wrong as wrong:
                raise wrong.within("ber") from None
            more = values.get("faults", [])
            values["faults"] = [*flips, *more] if isinstance(more, (list, tuple)) else more
        if values.get("margin") is None and values.get("trials") is None:
            values["margin"] = defaults.MARGIN
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        if self.workers is not None and self.scheduler is not None:
            raise Wrong("expected workers or a scheduler, not both", ("scheduler",))
        for index, name in enumerate(self.sweep_variants):
            if name not in self.variants:
                raise Wrong(str(unknown("variant", name, self.variants)), ("sweep_variants", index))
        return self


def _check_form(form: Any, source: str) -> None:
    if isinstance(form, bool) or not isinstance(form, int) or form < 1:
        raise ValueError(
            told(f"expected the form of the file, such as 1, got {form!r}", ("proact",), source, {})
        )
    if form > defaults.FORM:
        sentence = (
            f"the file has form {form}, and this proact reads up to form {defaults.FORM}: update it"
        )
        raise ProactError(told(sentence, ("proact",), source, {}))
