"""Verification: a statistical test of the sampler on this machine, for one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from proact.encodings import Bits
from proact.encodings.base import (
    as_memory,
    integers_of,
    same_bits,
    signed_memory,
    unsigned_memory,
)
from proact.encodings.scaled_words import ScaledWord
from proact.faults._check import Check
from proact.faults.coded_target import CodedTarget
from proact.faults.encode import encode
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.injection_plan import InjectionPlan, cached_plan
from proact.faults.injector import Injector
from proact.faults.kinds import BitFlip
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.overwritten_words import rows_by_tensor
from proact.faults.record import Record
from proact.faults.selectors import Selector
from proact.faults.target_memory import Target, read_words
from proact.limits import SEEDS, TRIALS
from proact.nn.model_kinds import checked_module
from proact.ops import _flip_reference as reference
from proact.ops import native_info
from proact.ops.plan import FlipColumns, FlipPlaces, checked_ber, checked_integer

_THREADS = (1, 2, 3, 8)
_REPLAYED = 3  # number of trials that are compared across threads, ISAs and samplers


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        checks: the checks. Each has the texts ``name``, ``measured`` and ``expected``; ``p_value``,
            the probability that a correct sampler deviates at least as much, or None for a property
            that does not depend on chance; and ``holds``, whether the property holds apart from the
            p-value.
        encoding: the name of the encoding.
        ber: the bit error rate of the trials, a probability per exposed bit.
        bits: number of exposed bits.
        trials: number of fault patterns.
        seed: the seed of the experiment.
        alpha: probability that a correct sampler fails at least one check.
    """

    checks: tuple[Check, ...]
    encoding: str
    ber: float
    bits: int
    trials: int
    seed: int
    alpha: float

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that passes: `alpha` over the number of p-values (Bonferroni)."""
        return self.alpha / sum(check.p_value is not None for check in self.checks)

    def passes(self, check: Check) -> bool:
        """Whether the check holds and its p-value, if it has one, is large enough."""
        if check.p_value is None:
            return check.holds
        return check.holds and check.p_value >= self.smallest_p_value

    @property
    def passed(self) -> bool:
        """Whether all checks pass."""
        return all(self.passes(check) for check in self.checks)


def verify(
    model: nn.Module,
    encoding: EncodingLike = "float32",
    *,
    ber: float | None = None,
    trials: int = 400,
    seed: int = 0,
    where: Selector = "*",
    bits: Bits = None,
    alpha: float = 1e-3,
) -> Verification:
    """Injects many trials into a copy of ``model`` and tests the flips statistically.

    In an encoding with a code, the flips of stored bits are tested, and memory is compared with
    codewords that are encoded, flipped and decoded one by one.

    Args:
        model: a model on the CPU; it is not changed.
        encoding: the stored form of its parameters; the copy is rounded to it.
        ber: bit error rate, a probability per exposed bit in (0, 1/2]; by default one that flips
            about a thousand bits in each trial, at most 0.05.
        trials: number of fault patterns, 50 or more.
        seed: identifies the experiment, as for `inject`; in [0, 2^63 - 1). The same seed gives the
            same verdict.
        where, bits: the exposed tensors and bits, as for `BitFlip`.
        alpha: probability that a correct sampler fails, in (0, 1).

    Raises:
        ValueError, TypeError: an argument out of range, or as `inject`.
        ProactError: as `inject`.
    """
    encoding = checked_encoding(encoding)
    checked_module(model)
    trials = checked_integer("trials", trials, TRIALS)
    seed = checked_integer("seed", seed, SEEDS - 1)
    if trials < 50:
        raise ValueError(f"trials must be 50 or more, got {trials}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    encoded = encode(model, encoding)
    injector = Injector(encoded, encoding)
    size = injector.exposed_bits(BitFlip(0.0, bits=bits, where=where))
    ber = min(1000 / size, 0.05) if ber is None else checked_ber(ber)
    if not 0 < ber <= 0.5:
        raise ValueError(f"ber must lie in (0, 1/2], got {ber}")
    fault = BitFlip(ber, bits=bits, where=where)

    from proact.faults._sampler_checks import Sample, statistical_checks  # scipy loads slowly

    clean = [tensor.detach().clone() for tensor in _tensors(encoded)]
    # The plan of the injector, whose scales the faults hit.
    plan = cached_plan(encoded, encoding) or InjectionPlan(encoded, encoding)
    target = plan.targets(fault)[0]
    sample, other = Sample(target, ber), Sample(target, ber)
    for trial in range(trials):
        for into, used_seed in ((sample, seed), (other, seed + 1)):
            with injector.trial(fault, used_seed, trial) as record:
                into.add(_only_part(record))
    checks = statistical_checks(sample, other)
    checks.append(
        Check(
            "all bits restored",
            f"after {2 * trials} trials",
            "every byte as before",
            holds=all(map(same_bits, clean, _tensors(encoded))),
        )
    )
    checks.append(_memory_is_as_recorded(injector, target, fault, seed))
    checks.extend(_same_in_every_way(target, ber, seed))
    if isinstance(target, CodedTarget):
        checks.append(_dropped_are_corrected(target, ber, seed))
    return Verification(tuple(checks), encoding.name, ber, size, trials, seed, alpha)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _only_part(record: Record) -> FlipColumns:
    (part,) = record.parts()
    return part.columns


def _memory_is_as_recorded(injector: Injector, target: Target, fault: BitFlip, seed: int) -> Check:
    """Checks that the drawn bits, and no others, are flipped in memory and in the record.

    In an encoding with a code, memory must hold the decoded words. The rate is then as high as
    needed for some codewords that the code does not correct.
    """
    from proact.faults._decoding_checks import codewords_hit, decoding_ber, words_read

    assert isinstance(fault.ber, float)
    is_coded = isinstance(target, CodedTarget)
    if is_coded:
        fault = replace(fault, ber=decoding_ber(target.exposed, fault.ber))
    assert isinstance(fault.ber, float)
    places = _drawn(target, fault.ber, seed, trial=0)
    expected = [exposed.tensor.cpu().clone() for exposed in target.exposed]
    holds = True
    for index, rows in rows_by_tensor(places.tensor):
        exposed = target.exposed[index]
        for read in words_read(exposed, places.element[rows], places.bit[rows]):
            holds &= read.is_promised
            changed = read.words != read_words(exposed, read.element)[1]
            element = read.element[changed]
            memory = exposed.word.memory_of(read.words[changed], exposed.tensor.dtype, element)
            raw = integers_of(expected[index].view(-1)).numpy()
            raw[element] = signed_memory(memory, raw.itemsize)
    _read_with_scales(target, expected)
    with injector.trial(fault, seed, 0) as record:
        recorded = _only_part(record).places
        holds &= all(map(_agree, expected, target.exposed))
    holds &= all(map(np.array_equal, _ordered(places), _ordered(recorded)))
    measured = f"{len(recorded.bit)} flips of trial 0"
    if is_coded:
        outcomes = record.corrected, record.detected, record.miscorrected
        holds &= sum(outcomes) == codewords_hit(target.exposed, places)
        measured += " at BER {:.3g}: {} codewords corrected, {} detected, {} wrong".format(
            fault.ber, *outcomes
        )
    return Check(
        "memory matches the record",
        measured,
        "these bits and no others, decoded" if is_coded else "these bits and no others",
        holds=holds,
    )


def _read_with_scales(target: Target, expected: Sequence[Tensor]) -> None:
    """Reads the expected words of elements, which have clean scales, with the expected scales."""
    memories = {each.name: memory for each, memory in zip(target.exposed, expected, strict=True)}
    for exposed, memory in zip(target.exposed, expected, strict=True):
        word, dtype = exposed.word.uncoded, exposed.tensor.dtype
        parts = {f"{exposed.name}:{p.name}": p for p in getattr(word, "parts", ())}
        if not isinstance(word, ScaledWord) or memories.keys().isdisjoint(parts):
            continue
        elements = np.arange(exposed.elements, dtype=np.uint64)
        raw = integers_of(memory.view(-1)).numpy()
        words = word.words_in(unsigned_memory(raw), dtype, elements)
        faulty = [replace(p, memory=memories.get(name, p.memory)) for name, p in parts.items()]
        with np.errstate(over="ignore", invalid="ignore"):
            values = word.with_parts(faulty).values(words, elements)
        raw[:] = signed_memory(as_memory(values, dtype), raw.itemsize)


def _agree(expected: Tensor, exposed: ExposedTensor) -> bool:
    """Whether a tensor has the expected bits; where scales can make NaN, any NaN is one."""
    found = exposed.tensor.cpu()
    if same_bits(expected, found):
        return True
    if not isinstance(exposed.word.uncoded, ScaledWord):
        return False
    both = expected.isnan() & found.isnan()
    return same_bits(expected.masked_fill(both, 0.0), found.masked_fill(both, 0.0))


def _ordered(places: tuple[NDArray[np.unsignedinteger], ...]) -> list[NDArray[np.unsignedinteger]]:
    order = np.lexsort(tuple(reversed(places)))
    return [column[order] for column in places]


def _drawn(
    target: Target, ber: float, seed: int, trial: int, threads: int = 1, isa: str = ""
) -> FlipPlaces:
    """The flips of stored bits of one trial; they are undone at once."""
    is_coded = isinstance(target, CodedTarget)
    plan = target.draws if is_coded or target.plan is None else target.plan
    log = plan.flip(ber, seed, trial, threads, isa)
    try:
        return target.drawn(log.columns())
    finally:
        log.restore()


def _same_in_every_way(target: Target, ber: float, seed: int) -> Iterator[Check]:
    """Checks that thread counts, instruction sets and the Python reference give the same flips."""

    def pattern(trial: int, threads: int = 1, isa: str = "") -> list[NDArray[np.unsignedinteger]]:
        return _ordered(_drawn(target, ber, seed, trial, threads, isa))

    def all_equal(found: list[list[list[NDArray[np.unsignedinteger]]]]) -> bool:
        return all(
            np.array_equal(a, b)
            for one in found
            for pattern, first in zip(one, found[0], strict=True)
            for a, b in zip(pattern, first, strict=True)
        )

    trials = range(_REPLAYED)
    yield Check(
        "any number of threads",
        f"{', '.join(map(str, _THREADS))} threads",
        "the same flips",
        holds=all_equal([[pattern(t, threads) for t in trials] for threads in _THREADS]),
    )
    isas = native_info()["isas"]
    yield Check(
        "any instruction set",
        ", ".join(isas) or "no native module",
        "the same flips",
        holds=all_equal([[pattern(t, isa=isa) for t in trials] for isa in isas or [""]]),
    )
    plain = [_ordered(_plain_places(target, ber, seed, trial)) for trial in trials]
    yield Check(
        "the plain Python sampler",
        f"{_REPLAYED} trials",
        "the same flips",
        holds=all_equal([plain, [pattern(t) for t in trials]]),
    )


def _plain_places(target: Target, ber: float, seed: int, trial: int) -> FlipPlaces:
    places = [
        (
            index,
            word * (exposed.words_per_check if memory.first_bit else 1),
            bit + memory.first_bit,
        )
        for index, exposed in enumerate(target.exposed)
        for memory in exposed.memories
        for word, bit in reference.flipped_bits(
            memory.words, memory.mask, ber, seed, trial, memory.stream
        )
    ]
    tensor, element, bit = np.array(places, np.uint64).reshape(-1, 3).T
    return FlipPlaces(tensor.astype(np.uint32), element, bit.astype(np.uint8))


def _dropped_are_corrected(target: CodedTarget, ber: float, seed: int) -> Check:
    """Checks which codewords are left to decode, for thread counts and instruction sets."""
    from proact.faults._decoding_checks import decoding_ber, uncorrected

    ber = decoding_ber(target.exposed, ber)
    holds, decoded, dropped = True, 0, 0
    for trial in range(_REPLAYED):
        places = _drawn(target, ber, seed, trial)
        left, dropped = uncorrected(target.exposed, places)
        decoded = len(left)
        ways = [(threads, "") for threads in _THREADS]
        ways += [(1, isa) for isa in native_info()["isas"]]
        for threads, isa in ways:
            found = target.codewords.draw(ber, seed, trial, threads, isa)
            rows = list(zip(*(column.tolist() for column in found.places), strict=True))
            holds &= rows == left and found.dropped == dropped and found.flips == len(places.bit)
    return Check(
        "only codewords that the code corrects are dropped",
        f"{dropped} dropped, {decoded} flips left in the last trial",
        "no other",
        holds=holds,
    )
