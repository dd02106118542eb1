"""Check, before the first trial, that a model's answer is a function of its memory and its input.

1. The faulted memory computes: outputs change under faults, and no memory of the original is read.
2. Asked twice, the model answers alike; state that a forward pass writes is put back.
3. The answer to an input does not depend on the other inputs of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.measurement import Measurement
from proact.campaign.memory_checks import MemoryChecks, path_of
from proact.campaign.module_outputs import parting_module
from proact.campaign.output_comparison import (
    equal_bits,
    equal_up_to,
    is_comparable,
    same_answers,
    same_rows,
    tolerance_of,
)
from proact.faults import Fault, Injector
from proact.nn.batches import Batch, cloned, samples_in, take, tensors_in
from proact.nn.outputs import opened
from proact.nn.written_state import Place, find_written_state, keep_written_state
from proact.results.policy import Policy
from proact.text import label

#: The number of samples in the batches of the checks.
_SAMPLES = 4
#: Batches on which an answer must depend on its batch; rounding at a threshold can look like it.
_ATTEMPTS = 3


@dataclass(frozen=True)
class ModelFindings:
    """What the checks found out about one model.

    Attributes:
        unread: exposed tensors that the forward pass did not read, by qualified name.
        unregistered: tensors that the forward pass reads and that are neither parameters nor
            buffers, so that no fault hits them.
        written: state that the forward pass writes and that is put back after it.
        undecided: the checks that could not be made, as sentences.
    """

    unread: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    unregistered: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unread or self.written or self.undecided or self.unregistered)

    def to_dict(self) -> dict[str, list[str]]:
        """Return the findings as values that JSON can hold, without empty ones."""
        return {key: list(value) for key, value in asdict(self).items() if value}


def check_model(
    name: str,
    original: nn.Module,
    injector: Injector,
    faults: Sequence[Fault],
    measurement: Measurement,
) -> ModelFindings:
    """Check one encoded model and record the state that its forward pass writes.

    Args:
        name: of the variant.
        original: the model that was encoded.
        injector: of the encoded model, which is in eval mode.

    Raises:
        ValueError: an answer is not a function of the model's memory and its input; the message
            names the module or tensor.
    """
    return _Checks(name, original, injector, faults, measurement).made()


class _Checks:
    def __init__(
        self,
        name: str,
        original: nn.Module,
        injector: Injector,
        faults: Sequence[Fault],
        measurement: Measurement,
    ) -> None:
        self._name, self._original, self._injector = label(name), original, injector
        self._faults, self._measurement = faults, measurement
        self._model = injector.model
        self._batch = _batch_of(measurement, 0)
        samples = samples_in(self._batch)
        # Two samples in other places and with other neighbours; a single one if there are two.
        self._rows = [2, 0] if samples > 2 else [samples - 1]
        self._part = take(self._batch, torch.tensor(self._rows))
        if not self._can_be_divided or samples < 3:
            self._part = self._batch
        self._is_repeatable = self._can_compare = True
        self._undecided: list[str] = []

    def made(self) -> ModelFindings:
        generators = [self._injector.device] if self._injector.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(generators):
            written, whole = self._asked_twice()
            self._can_compare = is_comparable(whole)
            if not self._can_compare:
                self._undecided.append(
                    f"whether {self._name} answers alike when it is asked twice and whether its "
                    "answers depend on its parameters, because no tensor was found in its output: "
                    "choose the part that counts with output="
                )
            part = self._first_output(self._part)
            memory = MemoryChecks(
                self._name, self._original, self._injector, self._faults, self._run_part
            )
            memory.refuse_idle_guards()
            unread, unregistered = memory.unread_and_unregistered(written)
            if self._measurement.state != "keep":
                written += memory.written_under_faults()
            if self._can_compare:
                memory.refuse_harmless(part)
            memory.refuse_absent_activations()
            self._batches(whole, part)
        undecided = (*memory.undecided, *self._undecided)
        return ModelFindings(unread, tuple(map(path_of, written)), undecided, unregistered)

    def _run_part(self) -> Any:
        return self._run(self._part)

    def _run(self, batch: Batch) -> Any:
        # Opened, so that tensors in objects of any class are copied and compared.
        return opened(self._measurement.output(self._model, batch))

    @property
    def _can_be_divided(self) -> bool:
        return self._measurement.data.batch_sizes is None

    # 2. Asked twice

    def _asked_twice(self) -> tuple[tuple[Place, ...], Any]:
        """The state that a forward pass writes, and the output of the batch."""
        if self._measurement.state == "keep":
            output = self._first_output(self._batch)
            self._is_repeatable = equal_bits(output, self._run(self._batch))
            return (), output
        outputs: list[Any] = []
        written = find_written_state(
            self._model, lambda: outputs.append(self._first_output(self._batch))
        )
        keep_written_state(self._model, written)
        outputs.append(self._run(self._batch))
        if equal_bits(*outputs):
            return written, outputs[0]
        tolerance = self._tolerance(outputs[0])
        close = [
            equal_up_to(min(tolerance, 1e-5), *pair)
            for pair in zip(*map(tensors_in, outputs), strict=False)
        ]
        if close and all(close):
            self._undecided.append(
                f"{self._name} gives outputs that differ in their last digits when it is asked "
                "twice"
            )
            return written, outputs[0]
        module = parting_module(
            self._model, partial(self._run, self._batch), partial(self._run, self._batch), _equal
        )
        raise ValueError(self._unlike(module))

    def _unlike(self, module: str) -> str:
        def seeded() -> Any:
            torch.manual_seed(0)
            return self._run(self._batch)

        start = f"{self._name}: the model gives different outputs for the same inputs"
        if equal_bits(cloned(seeded()), seeded()):
            return (
                f"{start}, because {module} draws at random in eval mode: turn the random part "
                "off, or accept it with state='keep'"
            )
        return (
            f"{start}, because {module} keeps state from call to call outside buffers and "
            "attributes, or draws at random: reset it in each forward pass, or accept it with "
            "state='keep'"
        )

    # 3. An answer does not depend on its batch

    def _first_output(self, batch: Batch) -> Any:
        try:
            return cloned(self._run(batch))
        except Exception as error:
            raise ValueError(
                f"{self._name} raises an error for {samples_in(batch)} samples: "
                f"{type(error).__name__}: {error}; if it takes batches of one size only, give "
                "unit='batch' and such batches"
            ) from error

    def _batches(self, whole: Any, part: Any) -> None:
        if not self._can_be_divided:
            return
        reason = ""
        if samples_in(self._batch) < 3:
            reason = "there are fewer than three samples"
        elif not self._is_repeatable:
            reason = "it answers differently when it is asked twice"
        if reason:
            self._undecided.append(
                f"whether an answer of {self._name} depends on its batch, because {reason}"
            )
            return
        batch = self._batch
        for attempt in range(_ATTEMPTS):
            if attempt:
                # Rounding at the threshold of a clip can look like a dependence, but rarely twice.
                batch = _batch_of(self._measurement, attempt)
                whole = cloned(self._run(batch))
                part = self._run(take(batch, torch.tensor(self._rows)))
            samples, tolerance = samples_in(batch), self._tolerance(whole)
            found = same_answers(whole, part, self._rows, samples, tolerance)
            if found is None:
                self._undecided.append(
                    f"whether an answer of {self._name} depends on its batch, because its outputs "
                    "have no row for each sample"
                )
            if found is not False:
                return
        raise ValueError(
            f"{self._name}: the answer to an input depends on the other inputs of its batch; the "
            f"first module that gives it another output is {self._mixing(batch)}"
            f"{self._alone(batch)}: give unit='batch', so that trials draw whole batches, or make "
            "the model compute each input alone"
        )

    def _alone(self, batch: Batch) -> str:
        try:
            self._run(take(batch, slice(0, 1)))
        except Exception as error:
            return f", and for one image the model raises {type(error).__name__}"
        return ""

    def _same_in_part(self, batch: Batch, rows: list[int]) -> bool | None:
        samples = samples_in(batch)
        if samples < 2:
            return None
        whole = cloned(self._run(batch))
        try:
            part = self._run(take(batch, torch.tensor(rows)))
        except Exception as error:
            if len(rows) == 1:
                return None  # some models take no single sample
            raise ValueError(
                f"{self._name} takes {samples} samples and raises an error for {len(rows)} of "
                f"them: {type(error).__name__}: {error}; give unit='batch' and the batches that it "
                "takes"
            ) from error
        return same_answers(whole, part, rows, samples, self._tolerance(whole))

    def _mixing(self, batch: Batch) -> str:
        samples, part = samples_in(batch), take(batch, torch.tensor(self._rows))
        tolerance = self._tolerance(self._run(batch))

        def are_alike(a: Tensor, b: Tensor) -> bool | None:
            return same_rows(a, b, self._rows, samples, tolerance)

        return parting_module(
            self._model, partial(self._run, batch), partial(self._run, part), are_alike
        )

    def _tolerance(self, output: Any) -> float:
        return tolerance_of([*tensors_in(output), *self._model.parameters()])


def _batch_of(measurement: Measurement, number: int) -> Batch:
    """A batch of few samples, another one for each number if there are enough samples."""
    data = measurement.data
    first = number * _SAMPLES
    if data.batch_sizes is None and first + _SAMPLES <= len(data):
        data = data.take(torch.arange(first, first + _SAMPLES, device=data.device))
    part = replace(measurement, data=data.first(_SAMPLES))
    return next(part.batches(None, Policy(None, _SAMPLES, False))).inputs


def _equal(a: Tensor, b: Tensor) -> bool:
    return equal_bits(a, b)
