"""HyReLU against torch.relu, the formula in plain torch and the compiled formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from _hyrelu_cases import Case
from _timing import Call, Goal, Row, Times, compare, interleave, scaled
from torch import Tensor

import proact
from proact.ops._hyrelu_native import instruction_set
from proact.ops.hyrelu import hyrelu, hyrelu_

OURS, RELU, EAGER, COMPILED, COPY = (
    "proact",
    "torch.relu",
    "eager formula",
    "compiled formula",
    "copy",
)
SLOPE = 20.0
#: Where |x - T| exceeds this, the sigmoid is 1 or 0 up to the precision of float32.
BAND = 17.0 / SLOPE
SMALLEST_ZERO_FORWARD = 64 << 10

ZERO = Goal(
    f"zero forward <= 1.05x torch.relu, tensors of {SMALLEST_ZERO_FORWARD >> 10} KiB or more",
    1.05,
    True,
)
SOFT_SPARSE = Goal("soft forward + backward <= 1.3x torch.relu, T in the tail or at 1 %", 1.3, True)
SOFT_BULK = Goal("soft forward + backward <= 2x torch.relu, T in the bulk", 2.0, True)
SOFT_EAGER = Goal("soft forward + backward >= 5x faster than the eager formula", 5.0, False)
SOFT_COMPILED = Goal("soft forward + backward not slower than the compiled formula", 1.0, False)
ISA = Goal("the chosen instruction set <= 1.1x each other one of the machine", 1.1, True)
GOALS = (ZERO, SOFT_SPARSE, SOFT_BULK, SOFT_EAGER, SOFT_COMPILED, ISA)
SMALLEST_BANDWIDTH = 64 << 20
BANDWIDTH = Goal("bandwidth >= 0.85 of a copy's, tensors of 64 MiB or more on a GPU", 0.85, False)
GPU_GOALS = (BANDWIDTH, SOFT_EAGER, SOFT_COMPILED)


def measure(
    wanted: list[Case], repeats: int, seed: int, budget_seconds: float, device: str = "cpu"
) -> Iterator[list[Row]]:
    """Yields the rows of each case."""
    previous: tuple[object, ...] = ()
    for case in wanted:
        group = (case.elements, case.dtype, case.granularity, case.threads)
        if group != previous:
            previous = group
            torch.set_num_threads(case.threads)
            # A graph serves one size and one number of threads, and dynamo gives up after eight
            # versions of one function.
            torch._dynamo.reset()
            data = _data(case, seed).to(device)
        contenders = _contenders(case, data)
        with torch.set_grad_enabled(case.is_step):
            times = interleave(contenders, repeats, seed, budget_seconds, device=device)
        yield [*_rows(case, times, device), *_bandwidth_rows(case, times, device)]


def compiler_error(device: str) -> str:
    """The error of torch.compile for a device of this machine; empty where it works."""
    x, t = torch.ones(3, device=device), torch.ones((), device=device)
    try:
        torch.compile(_zero_formula, fullgraph=True, dynamic=False)(x, t)
    except RuntimeError as error:
        return str(error).strip().split("\n", maxsplit=1)[0]
    return ""


def _soft_formula(x: Tensor, t: Tensor) -> Tensor:
    return torch.relu(x * torch.sigmoid(SLOPE * (t - x)))


def _zero_formula(x: Tensor, t: Tensor) -> Tensor:
    return torch.where((x > 0) & (x <= t), x, 0)


def _data(case: Case, seed: int) -> Tensor:
    """Samples of a standard normal distribution: half are negative, as before a ReLU."""
    shape: tuple[int, ...] = (case.elements,)
    if case.granularity != "layer":
        shape = (16, 16, case.elements // 256)  # samples, channels, neurons of a channel
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(case.dtype)


def _threshold(case: Case, x: Tensor) -> Tensor:
    """The threshold; all channels or neurons get the same, so that the placement holds for each."""
    values = x.flatten().float()
    if case.placement == "tail":
        t = values.max()
    elif case.placement == "1%":
        t = values.kthvalue(max(1, round(0.99 * values.numel()))).values + BAND
    else:
        t = values[values > 0].median()
    shape = {"layer": (), "channel": (16, 1), "neuron": tuple(x.shape[1:])}[case.granularity]
    return t.to(case.dtype).expand(shape).contiguous()


def _contenders(case: Case, x: Tensor) -> dict[str, Call]:
    """Functional calls as users write them: each allocates its outputs.

    The copy writes to memory that is allocated already.
    """
    x, t = x.detach(), _threshold(case, x)
    target = torch.empty_like(x)
    contenders: dict[str, Call] = {COPY: lambda: target.copy_(x)}
    if case.work == "zero in place":
        # Later calls change nothing, because both functions are idempotent.
        ours, theirs = x.clone(), x.clone()
        contenders[OURS] = lambda: hyrelu_(ours, t, "zero")
        contenders[RELU] = lambda: torch.relu_(theirs)
        return contenders
    mode = "soft" if case.is_soft else "zero"
    formula = _soft_formula if case.is_soft else _zero_formula
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        OURS: lambda x, t: hyrelu(x, t, mode, SLOPE),
        RELU: lambda x, _: torch.relu(x),
    }
    isas = {f"{OURS} on {isa}": isa for isa in _other_isas()} if case.has_isas else {}
    functions |= dict.fromkeys(isas, functions[OURS])
    if case.eager:
        functions[EAGER] = formula
    if case.compiled:
        functions[COMPILED] = torch.compile(formula, fullgraph=True, dynamic=False)
    grad = torch.ones_like(x)
    for name, function in functions.items():
        if case.is_step:
            contenders[name] = _step(function, x, t, grad, with_threshold=name != RELU)
        else:
            contenders[name] = _forward(function, x, t)
        if name in isas:
            contenders[name] = _on(isas[name], contenders[name])
    return contenders


def _other_isas() -> list[str]:
    """The instruction sets of this machine besides the chosen one and the baseline."""
    info = proact.build_info()
    return [isa for isa in info["isas"] if isa not in ("baseline", info["isa"])]


def _on(isa: str, call: Call) -> Call:
    def run() -> object:
        with instruction_set(isa):
            return call()

    return run


def _forward(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Call:
    return lambda: function(x, t)


def _step(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    grad: Tensor,
    *,
    with_threshold: bool,
) -> Call:
    x = x.detach().requires_grad_()
    t = t.clone().requires_grad_()
    wanted = (x, t) if with_threshold else (x,)
    return lambda: torch.autograd.grad(function(x, t), wanted, grad)


def _goal(case: Case, other: str, device: str) -> Goal | None:
    if device != "cpu" and other == RELU:
        return None  # on a GPU the bandwidth is the goal
    if other.startswith(f"{OURS} on "):
        return ISA
    if case.work == "zero forward" and other == RELU:
        return ZERO if case.bytes >= SMALLEST_ZERO_FORWARD else None
    if not case.is_step:
        return None
    if other == RELU:
        return SOFT_BULK if case.placement == "bulk" else SOFT_SPARSE
    return SOFT_EAGER if other == EAGER else SOFT_COMPILED


def _moved(case: Case) -> int:
    """The bytes that proact moves at least: forward reads x and writes y; backward reads the
    gradient and x, and writes a gradient."""
    return (5 if case.is_step else 2) * case.bytes


def _bandwidth_rows(case: Case, times: Times, device: str) -> list[Row]:
    """On a GPU: the bandwidth over that of a copy, which moves the tensor twice."""
    if device == "cpu":
        return []
    ours = float(np.median(times[OURS]))
    ratio = scaled(compare(times, OURS, COPY, faster=True), _moved(case) / (2 * case.bytes))
    return [
        Row(
            question=f"{case.work}, bandwidth over that of a copy",
            case=str(case),
            unit="element",
            nanoseconds=1e9 * ours / case.elements,
            ratio=ratio,
            goal=BANDWIDTH if case.bytes >= SMALLEST_BANDWIDTH else None,
            gigabytes_per_second=_moved(case) / ours / 1e9,
            share_of_copy=ratio.value,
            labels={**_labels(case), "against": COPY},
        )
    ]


def _labels(case: Case) -> dict[str, str | int | float]:
    return {
        "part": "hyrelu",
        "work": case.work,
        "elements": case.elements,
        "bytes": case.bytes,
        "dtype": case.dtype_name,
        "placement": case.placement,
        "granularity": case.granularity,
        "threads": case.threads,
    }


def _rows(case: Case, times: Times, device: str) -> list[Row]:
    ours = float(np.median(times[OURS]))
    moved = _moved(case)
    copied = 2 * case.bytes / float(np.median(times[COPY]))
    rows = []
    for other in times:
        if other in (COPY, OURS):
            continue
        faster = other in (EAGER, COMPILED)
        rows.append(
            Row(
                question=f"{case.work}, "
                + (f"faster than {other}" if faster else f"time over {other}"),
                case=str(case),
                unit="element",
                nanoseconds=1e9 * ours / case.elements,
                ratio=compare(times, OURS, other, faster=faster),
                goal=_goal(case, other, device),
                gigabytes_per_second=moved / ours / 1e9,
                share_of_copy=moved / ours / copied,
                labels={**_labels(case), "against": other},
            )
        )
    return rows
