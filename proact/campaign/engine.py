"""Runs a campaign: every variant meets the same faults on the same images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from proact.campaign.result import Result
from proact.campaign.statistics import checked_confidence
from proact.campaign.store import Row, Store
from proact.campaign.task import facts_digest, model_digest, task_facts
from proact.data import Split, as_evaluation
from proact.data.splits import PairOrData
from proact.faults import ActivationFlip, Encoding, Fault, Injector, encode, encoding_named
from proact.models.evaluation import check_fit, check_runs, logits
from proact.ops.plan import SEEDS, TRIALS, checked_integer

#: Trials of one cell before the next cell gets its turn, so that all cells become usable early.
_TURN = 20


class _Variant:
    """One encoded network with its clean predictions.

    A trial is judged on ``images_per_trial`` of the images, drawn for each (seed, trial), or on all
    where it is None.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        images: Split,
        encoding: Encoding,
        images_per_trial: int | None,
    ) -> None:
        self.name = name
        self.images = images
        self._images_per_trial = images_per_trial
        self.injector = Injector(encode(model, encoding).eval(), encoding)
        output = check_runs(self.injector.model, images.images, name)
        check_fit(output, images.labels, name)
        self.clean = output.argmax(1)
        self._clean_output = output
        self.digest = model_digest(self.injector.model, self.clean)
        self.clean_row = self._count(output, slice(None), trial=0, flips=0, seconds=0.0)

    def run(self, fault: Fault, seed: int, trial: int) -> Row:
        start = time.perf_counter()
        chosen = self._drawn(seed, trial)
        with self.injector.trial(fault, seed, trial) as record:
            # Where nothing changed the result is known; activations change while the network runs.
            if record.flips == 0 and not isinstance(fault, ActivationFlip):
                return self._count(self._clean_output[chosen], chosen, trial, 0, 0.0)
            output = logits(self.injector.model, self.images.images[chosen])
            seconds = time.perf_counter() - start
            return self._count(output, chosen, trial, record.flips, seconds)

    def _drawn(self, seed: int, trial: int) -> Tensor | slice:
        """The images of a trial, the same for every variant and fault."""
        if self._images_per_trial is None:
            return slice(None)
        digest = hashlib.sha256(f"proact images {seed} {trial}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randperm(len(self.images), generator=generator)[: self._images_per_trial]

    def _count(
        self, output: Tensor, chosen: Tensor | slice, trial: int, flips: int, seconds: float
    ) -> Row:
        finite = torch.isfinite(output).all(1)
        predicted = output.argmax(1)
        return Row(
            trial,
            flips,
            len(predicted),
            int((finite & (predicted == self.images.labels[chosen])).sum()),
            int((finite & (predicted == self.clean[chosen])).sum()),
            int((~finite).sum()),
            seconds,
        )


def run(
    variants: Mapping[str, nn.Module],
    data: PairOrData,
    faults: Sequence[Fault],
    *,
    encoding: str | Encoding = "float32",
    trials: int = 200,
    images_per_trial: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Measures the accuracy that each variant keeps under each fault.

    A trial is one fault pattern, judged on the evaluation images. Trial t of every variant meets
    the same faults in the tensors that the variants share by name, so their differences are paired.
    An image whose output holds NaN or infinity counts as wrong.

    Args:
        variants: networks by name, on the CPU; copies of them are encoded and faulted.
        data: the evaluation images: what `proact.data.load` returns (its test split), a pair
            (images, labels), or a `Dataset`.
        faults: of `proact.faults`' kinds; one cell a variant and fault.
        encoding: the stored form of the parameters.
        trials: fault patterns a cell, in [1, 2^32).
        images_per_trial: each trial is judged on so many of the images, drawn for (seed, trial)
            without replacement, the same for all variants and faults. None, or as many as there
            are, takes all. The interval then is about fault patterns and draws of images.
        confidence: of the intervals, two-sided, in (0, 1).
        seed: names the experiment; in [0, 2^63). Same seed, same rows.
        store: SQLite file for the rows, written as they finish; rows that it already holds for
            this very content are not run again. None keeps them in memory.
        progress: called with (trials done, trials in all), stored ones included.

    Raises:
        ValueError, TypeError: an argument out of range, no variants, no faults, a network that the
            encoding cannot store; nothing is written. ProactError: a store that cannot be used.
    """
    encoding = encoding_named(encoding)
    _check(variants, faults, trials, images_per_trial)
    checked_confidence(confidence)
    seed = checked_integer("seed", seed, SEEDS)
    images = as_evaluation(data)
    if images_per_trial is not None and images_per_trial >= len(images):
        images_per_trial = None
    prepared = [
        _Variant(name, model, images, encoding, images_per_trial)
        for name, model in variants.items()
    ]
    bers = {
        (variant.name, fault): variant.injector.expected_ber(fault)
        for variant in prepared
        for fault in faults
    }

    with Store(store) as rows:
        facts = task_facts(images, encoding, seed, images_per_trial)
        task = rows.task(facts_digest(facts), facts)
        variant_ids = [
            rows.variant(task, v.name, v.digest, len(images), v.clean_row.correct) for v in prepared
        ]
        fault_ids = [rows.fault(str(fault), fault.to_dict()) for fault in faults]
        cells = [
            (variant, variant_id, fault, fault_id)
            for fault, fault_id in zip(faults, fault_ids, strict=True)
            for variant, variant_id in zip(prepared, variant_ids, strict=True)
        ]
        done = {(v, f): {row.trial for row in rows.rows(v, f)} for _, v, _, f in cells}
        finished = 0
        for first in range(0, trials, _TURN):
            for variant, variant_id, fault, fault_id in cells:
                for trial in range(first, min(first + _TURN, trials)):
                    if trial not in done[variant_id, fault_id]:
                        rows.add(variant_id, fault_id, variant.run(fault, seed, trial))
                    finished += 1
                    if progress is not None:
                        progress(finished, trials * len(cells))
        found = {
            (variant.name, fault): [r for r in rows.rows(variant_id, fault_id) if r.trial < trials]
            for variant, variant_id in zip(prepared, variant_ids, strict=True)
            for fault, fault_id in zip(faults, fault_ids, strict=True)
        }
    clean = {v.name: v.clean_row.correct / v.clean_row.images for v in prepared}
    return Result(found, bers, clean, confidence)


def _check(
    variants: Mapping[str, nn.Module],
    faults: Sequence[Fault],
    trials: int,
    images_per_trial: int | None,
) -> None:
    for name, model in variants.items():
        if not isinstance(model, nn.Module):
            raise TypeError(f"variants are torch.nn.Module, and {name} is {type(model).__name__}")
    if not variants:
        raise ValueError("a campaign needs at least one variant, got none")
    if isinstance(faults, Fault):
        raise TypeError(
            f"faults is a sequence of faults, got one {type(faults).__name__}: put it into a list"
        )
    if not faults:
        raise ValueError("a campaign needs at least one fault, got none")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(
                "faults are of proact.faults' kinds, such as BitFlip(1e-5); got "
                f"{type(fault).__name__}"
            )
    if len(set(faults)) != len(faults):
        raise ValueError("each fault makes a cell of its own, and one was given twice")
    if checked_integer("trials", trials, TRIALS) == 0:
        raise ValueError("a campaign needs at least one trial a cell, got 0")
    few = images_per_trial
    if few is not None and checked_integer("images_per_trial", few, 1 << 62) == 0:
        raise ValueError("a trial is judged on at least one image, got images_per_trial 0")
