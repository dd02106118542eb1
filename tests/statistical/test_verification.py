"""Does `verify` pass the sampler, and fail every broken one?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact.cli import main
from proact.encodings import Decoded
from proact.encodings.base import Words
from proact.encodings.codes import LinearCode
from proact.faults import Verification, coded_target, decoding, verify
from proact.faults.decoding import DecodedCodewords, Decoding
from proact.faults.exposed_tensor import ExposedTensor
from proact.ops.codeword_plan import CodewordFlips, CodewordPlan
from proact.ops.number_formats import NumberFormat
from proact.ops.plan import FlipLog, FlipPlaces, FlipPlan

Flip = Callable[..., None]
Break = Callable[[pytest.MonkeyPatch], None]

_flip_into: Flip = FlipPlan.flip_into
_restore = FlipLog.restore


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU())


@pytest.mark.parametrize(
    "encoding",
    ["float32", "bfloat16", "int8", "mxfp4", "nvfp4", "int4-group32-zero", "q15.16", "q3.4"],
)
def test_the_sampler_passes(encoding: str) -> None:
    model = network()
    before = bits_of(model)
    found = verify(model, encoding, trials=150, seed=1)
    assert found.passed, found.checks
    assert same_bits(before, model)
    assert {check.p_value is None for check in found.checks} == {True, False}


@pytest.mark.parametrize(
    ("ber", "where", "bits"),
    [(0.5, "*.bias", None), (1e-4, "*", "exponent"), (0.01, "*.bias", None), (0.02, "*", (31,))],
)
def test_the_sampler_passes_anywhere(ber: float, where: str, bits: object) -> None:
    found = verify(network(), ber=ber, where=where, bits=bits, trials=150)  # type: ignore[arg-type]
    assert found.passed, found.checks


def test_a_right_sampler_s_p_values_are_spread() -> None:
    """A check that always says about 1/2 would not notice anything either."""
    values = [
        check.p_value
        for seed in range(6)
        for check in verify(network(), trials=50, seed=seed).checks
        if check.p_value is not None
    ]
    assert min(values) < 0.2
    assert max(values) > 0.8


def flips_more(patch: pytest.MonkeyPatch) -> None:
    def flip(plan: FlipPlan, log: FlipLog, ber: float, *rest: object) -> None:
        _flip_into(plan, log, 1.05 * ber, *rest)

    patch.setattr(FlipPlan, "flip_into", flip)


def flips_exactly(patch: pytest.MonkeyPatch) -> None:
    def flip(plan: FlipPlan, log: FlipLog, ber: float, seed: int, trial: int, *_: object) -> None:
        plan._plan.flip_exactly_into(log._log, round(ber * plan.exposed_bits), seed, trial)

    patch.setattr(FlipPlan, "flip_into", flip)


def varies_its_rate(patch: pytest.MonkeyPatch) -> None:
    def flip(
        plan: FlipPlan, log: FlipLog, ber: float, seed: int, trial: int, *rest: object
    ) -> None:
        _flip_into(plan, log, ber * (1.1 if trial % 2 else 0.9), seed, trial, *rest)

    patch.setattr(FlipPlan, "flip_into", flip)


def repeats_trials(patch: pytest.MonkeyPatch) -> None:
    def flip(
        plan: FlipPlan, log: FlipLog, ber: float, seed: int, trial: int, *rest: object
    ) -> None:
        _flip_into(plan, log, ber, seed, trial // 2, *rest)

    patch.setattr(FlipPlan, "flip_into", flip)


def forgets_the_seed(patch: pytest.MonkeyPatch) -> None:
    def flip(plan: FlipPlan, log: FlipLog, ber: float, _: int, trial: int, *rest: object) -> None:
        _flip_into(plan, log, ber, 0, trial, *rest)

    patch.setattr(FlipPlan, "flip_into", flip)


def with_added(change: Callable[[int, int], tuple[int, int]]) -> Break:
    """A sampler that sees other masks and streams than it was given."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        add = FlipPlan.add

        def changed(
            plan: FlipPlan, tensor: torch.Tensor, stream: int, mask: int, form: NumberFormat | None
        ) -> None:
            add(plan, tensor, *change(stream, mask), form)

        patch.setattr(FlipPlan, "add", changed)

    return broken


def spares_half_a_tensor(patch: pytest.MonkeyPatch) -> None:
    add = FlipPlan.add

    def changed(plan: FlipPlan, tensor: torch.Tensor, *rest: object) -> None:
        add(plan, tensor.view(-1)[: tensor.numel() // 2], *rest)  # type: ignore[arg-type]

    patch.setattr(FlipPlan, "add", changed)


def forgets_a_tensor(patch: pytest.MonkeyPatch) -> None:
    add = FlipPlan.add

    def changed(plan: FlipPlan, tensor: torch.Tensor, *rest: object) -> None:
        rate_of_zero = tensor[:0] if tensor.numel() == 60 else tensor
        add(plan, rate_of_zero, *rest)  # type: ignore[arg-type]

    patch.setattr(FlipPlan, "add", changed)


def flips_twice(patch: pytest.MonkeyPatch) -> None:
    def flip(plan: FlipPlan, log: FlipLog, ber: float, *rest: object) -> None:
        _flip_into(plan, log, ber / 2, *rest)
        _flip_into(plan, log, ber / 2, *rest)

    patch.setattr(FlipPlan, "flip_into", flip)


def leaves_a_flip(patch: pytest.MonkeyPatch) -> None:
    def restore(log: FlipLog, threads: int | None = None) -> None:
        faulty = log._plan._tensors[0].view(-1)[0].clone() if log._plan._tensors else None
        _restore(log, threads)
        if faulty is not None and len(log) % 50 == 0:
            log._plan._tensors[0].view(-1)[0] = -1.0

    patch.setattr(FlipLog, "restore", restore)


def with_other_trials(elsewhere: Callable[[int | None, str], bool]) -> Break:
    """A sampler that draws another trial for some threads or instruction sets."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        def flip(
            plan: FlipPlan,
            log: FlipLog,
            ber: float,
            seed: int,
            trial: int,
            threads: int | None = None,
            isa: str = "",
        ) -> None:
            _flip_into(plan, log, ber, seed, trial + elsewhere(threads, isa), threads, isa)

        patch.setattr(FlipPlan, "flip_into", flip)

    return broken


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (flips_more, "flips per trial, mean"),
        (flips_exactly, "flips per trial, variance"),
        (varies_its_rate, "flips per trial, variance"),
        (varies_its_rate, "counts of consecutive trials"),
        (repeats_trials, "bits shared by two trials"),
        (forgets_the_seed, "bits shared with another seed"),
        (with_added(lambda stream, mask: (stream, mask & ~(1 << 31))), "flips over bit positions"),
        (with_added(lambda stream, mask: (stream ^ 1, mask)), "the plain Python sampler"),
        (spares_half_a_tensor, "flips over elements"),
        (forgets_a_tensor, "flips over tensors"),
        (flips_twice, "only exposed bits, each at most once"),
        (leaves_a_flip, "all bits restored"),
        (with_other_trials(lambda threads, isa: threads == 3), "any number of threads"),
        (with_other_trials(lambda threads, isa: isa == "baseline"), "any instruction set"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_a_broken_sampler_fails(
    monkeypatch: pytest.MonkeyPatch, broken: Break, noticed: str
) -> None:
    broken(monkeypatch)
    found = verify(network(), trials=150, seed=1)
    assert not found.passed
    assert noticed in {check.name for check in found.checks if not found.passes(check)}


def test_memory_that_is_not_as_recorded_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def flip(plan: FlipPlan, log: FlipLog, *rest: object) -> None:
        _flip_into(plan, log, *rest)
        words = log._plan._tensors[0].view(-1).view(torch.int32)
        words[int(log.columns().element[0])] ^= 1 << 12

    monkeypatch.setattr(FlipPlan, "flip_into", flip)
    found = verify(network(), trials=50)
    failed = {check.name for check in found.checks if not found.passes(check)}
    assert failed == {"memory matches the record"}


CODED = ["float32+bch2", "float32+tmr", "q15.16+secded32", "float16+secded64", "int8+secded"]
CODED += ["float32+cep", "bfloat16+bch3+range", "float32+secded-mirrored"]


@pytest.mark.parametrize("encoding", CODED)
def test_coded_encodings_pass(encoding: str) -> None:
    model = network()
    before = bits_of(model)
    found = verify(model, encoding, trials=100, seed=1)
    assert found.passed, found.checks
    assert same_bits(before, model)
    (memory,) = (c for c in found.checks if c.name == "memory matches the record")
    assert "0 corrected" not in memory.measured or encoding == "float32+cep"
    assert " 0 detected" not in memory.measured or encoding == "float32+tmr"


@pytest.mark.parametrize("encodings", [("float32", "float32+bch2"), ("float32+tmr", "q7.8+cep")])
def test_encodings_by_tensor_pass(encodings: tuple[str, str]) -> None:
    """The first one need not have a code."""
    found = verify(network(), {"*.bias": encodings[0], "*": encodings[1]}, trials=50)
    assert found.passed, found.checks


@pytest.mark.parametrize("encoding", ["float32+bch2", "q15.16+secded32", "float16+secded64"])
@pytest.mark.parametrize("bits", ["check", "sign"])
def test_parts_of_coded_words_pass(encoding: str, bits: str) -> None:
    found = verify(network(), encoding, trials=50, bits=bits, ber=0.02)
    assert found.passed, found.checks


def misses_a_flip(patch: pytest.MonkeyPatch) -> None:
    """Leaves one wrong bit less in memory."""

    def decoded(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> Decoding:
        found = decoding.decode(exposed, places)
        return found._replace(residual=found.residual.take(slice(1, None)))

    patch.setattr(coded_target, "decode", decoded)


def miscounts(patch: pytest.MonkeyPatch) -> None:
    def decoded(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> Decoding:
        found = decoding.decode(exposed, places)
        few = DecodedCodewords(*(column[1:] for column in found.codewords))
        return found._replace(codewords=few)

    patch.setattr(coded_target, "decode", decoded)


def takes_detected_words_as_they_are(patch: pytest.MonkeyPatch) -> None:
    decode = LinearCode.decode

    def decoded(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> Decoding:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                LinearCode,
                "decode",
                lambda code, words, check: Decoded(
                    decode(code, words, check).words, np.zeros(len(words), bool)
                ),
            )
            return decoding.decode(exposed, places)

    patch.setattr(coded_target, "decode", decoded)


def corrects_nothing(patch: pytest.MonkeyPatch) -> None:
    """The decoder alone is broken: dropped codewords are not what it would make of them."""

    def decoded(code: LinearCode, words: Words, check: Words) -> Decoded:
        return Decoded(words, np.zeros(len(words), bool))

    patch.setattr(LinearCode, "decode", decoded)


def drops_too_many(patch: pytest.MonkeyPatch) -> None:
    add = CodewordPlan.add

    def added(plan: CodewordPlan, *args: int, corrects: int, **rest: int) -> None:
        add(plan, *args, corrects=corrects + 1, **rest)

    patch.setattr(CodewordPlan, "add", added)


def drops_too_many_on_three_threads(patch: pytest.MonkeyPatch) -> None:
    draw = CodewordPlan.draw

    def drawn(
        plan: CodewordPlan,
        ber: float,
        seed: int,
        trial: int,
        threads: int | None = None,
        isa: str = "",
    ) -> CodewordFlips:
        found = draw(plan, ber, seed, trial, threads, isa)
        return found._replace(dropped=found.dropped + 1) if threads == 3 else found

    patch.setattr(CodewordPlan, "draw", drawn)


def spares_check_words(patch: pytest.MonkeyPatch) -> None:
    draw = CodewordPlan.draw

    def drawn(plan: CodewordPlan, *args: object) -> CodewordFlips:
        found = draw(plan, *args)  # type: ignore[arg-type]
        return found._replace(places=found.places.take(found.places.bit < 32))

    patch.setattr(CodewordPlan, "draw", drawn)


FILTER, MEMORY = "only codewords that the code corrects are dropped", "memory matches the record"


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (misses_a_flip, {MEMORY}),
        (miscounts, {MEMORY}),
        (takes_detected_words_as_they_are, {MEMORY}),
        (corrects_nothing, {MEMORY}),
        (drops_too_many, {FILTER, MEMORY}),
        (drops_too_many_on_three_threads, {FILTER}),
        (spares_check_words, {FILTER, MEMORY}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_decoder_fails(
    monkeypatch: pytest.MonkeyPatch, broken: Break, noticed: set[str]
) -> None:
    broken(monkeypatch)
    found = verify(network(), "q15.16+secded32", trials=50, seed=1)
    assert {check.name for check in found.checks if not found.passes(check)} == noticed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 10}, "trials must be 50"),
        ({"ber": 0.0}, r"\(0, 1/2\]"),
        ({"ber": 0.7}, r"\(0, 1/2\]"),
        ({"alpha": 1.0}, "alpha"),
        ({"where": "nothing"}, "'nothing' matches no"),
        ({"encoding": "int77"}, "int77"),
        ({"model": 3}, "got int"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], words: str) -> None:
    arguments = {"model": network(), **options}
    with pytest.raises((ValueError, TypeError), match=words):
        verify(**arguments)  # type: ignore[arg-type]


def test_the_command_prints_and_says_its_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["verify", "--trials", "50", "--encoding", "q3.4", "--bits", "0x7f"]) == 0
    assert "PASSED" in capsys.readouterr().out
    flips_more(monkeypatch)
    assert main(["verify", "--trials", "200"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--model", "nothing"], ["--ber", "2"], ["--where", "x"], ["--bits", "fraction"]],
)
def test_the_command_names_bad_input(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["verify", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_verdict_follows_from_the_checks() -> None:
    found = verify(network(), trials=50)
    strict = Verification(
        found.checks, found.encoding, found.ber, found.bits, found.trials, found.seed, alpha=0.999
    )
    assert strict.smallest_p_value > found.smallest_p_value
    assert strict.passed == all(
        check.holds and (check.p_value is None or check.p_value >= strict.smallest_p_value)
        for check in found.checks
    )
