"""FT-ClipAct: a threshold for each layer, searched by injecting faults into that layer.

L.-H. Hoang, M. A. Hanif, M. Shafique, "FT-ClipAct: Resilience Analysis of Deep Neural Networks and
Improving their Fault Tolerance using Clipped Activation", arXiv 1912.00941.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn

from proact.data import Data
from proact.faults import BitFlip, Where
from proact.faults.mixed_encoding import EncodingLike, checked_encoding, named_or_checked
from proact.limits import SEEDS
from proact.models.evaluation import examples
from proact.nn import Site
from proact.nn.batches import Batch, cloned
from proact.nn.forward import DEFAULT, Forward
from proact.nn.site import eval_mode
from proact.nn.sites import place_at_sites
from proact.ops.plan import checked_integer
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips, clips_at
from proact.protect.fault_scoring import FaultScorer
from proact.protect.method import ClipMethod
from proact.protect.objective import CLASSES, Objective
from proact.protect.options import ClipOptions, check_deployed_mode, checked_count
from proact.text import short_repr

#: Bit error rates, per stored bit; the score places them at equal steps.
RATES = (1e-7, 1e-6, 3e-6, 1e-5, 3e-5)
ROUNDS = 4  # N of the paper's algorithm
ROUNDS_BEFORE_STOPPING = 3  # M
CLOSE = 0.2  # delta: scores that differ by at most this count as equal


@dataclass(frozen=True)
class FtClipactOptions(ClipOptions):
    """Options of ``protect(model, "ft-clipact", ...)``, in addition to those of `ClipOptions`.

    Attributes:
        granularity: ``"layer"``.
        mode: ``"zero"`` (published) or ``"saturate"``.
        patterns: the number of fault patterns at each rate, the same for every candidate.
        images_per_pattern: the number of validation images that run under each pattern.
        encoding: the stored form that faults hit during the search.
        seed: determines the fault patterns and the images that they draw; in [0, 2^63).
        cache_bytes: memory, in bytes for each process, for the activations that lead to the current
            layer. Patterns whose activations do not fit run the whole model.
    """

    granularity: str = "layer"
    mode: str = "zero"
    patterns: int = 16
    images_per_pattern: int = 64
    encoding: EncodingLike = "float32"
    seed: int = 0
    cache_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_deployed_mode(self.mode)
        if self.granularity != "layer":
            raise ValueError(
                f"the granularity of ft-clipact is 'layer', got {short_repr(self.granularity)}"
            )
        checked_count("patterns", self.patterns)
        checked_count("images_per_pattern", self.images_per_pattern)
        object.__setattr__(self, "encoding", named_or_checked(self.encoding))
        checked_integer("seed", self.seed, SEEDS)
        checked_count("cache_bytes", self.cache_bytes)


def ft_clipact(
    model: nn.Module,
    data: Data,
    options: FtClipactOptions,
    run: MethodRun,
    objective: Objective = CLASSES,
) -> Clips:
    """The clips that FT-ClipAct chooses for ``model``, a working copy (arXiv 1912.00941)."""
    bounds = options.profiled(model, data, options.granularity, run, objective.forward)
    thresholds = run.with_finished(bounds)
    clipped = place_at_sites(model, clips_at(thresholds, options.mode))
    scorer = FaultScorer(
        clipped,
        checked_encoding(options.encoding),
        data.validation,
        options.patterns,
        options.images_per_pattern,
        options.seed,
        objective,
        options.cache_bytes,
    )
    layers = tensors_of_layers(clipped, bounds, examples(data.train), objective.forward)
    for site in run.unfinished(bounds, dict.fromkeys(bounds, 1.0)):
        if not layers[site]:
            run.report(f"{site.name}: not searched, because its layer has no stored tensor")
        else:
            thresholds[site] = _searched(scorer, site, bounds[site], layers[site])
        scorer.set_threshold(site, thresholds[site])
        share = float(thresholds[site] / bounds[site])
        run.report(f"{site.name}: {share:.3f} of the profile's maximum ({run.position})")
        run.finish(site, thresholds[site])
    return clips_at(thresholds, options.mode)


def _searched(scorer: FaultScorer, site: Site, highest: Tensor, tensors: tuple[str, ...]) -> Tensor:
    where = Where(name=tensors)

    def score(threshold: float) -> float:
        scorer.set_threshold(site, torch.full_like(highest, threshold))
        return area([scorer.accuracy(BitFlip(rate, where=where)) for rate in RATES])

    with scorer.continued_at(site, tensors):
        return torch.full_like(highest, search(score, float(highest)))


def search(score: Callable[[float], float], highest: float) -> float:
    """The best of the points that the search visits in [0, highest].

    Each round divides the interval into thirds, scores its four points, and continues between the
    neighbours of the best one (arXiv 1912.00941, algorithm 1). Of equal points the highest wins.
    """
    known: dict[float, float] = {}
    low, high = 0.0, highest
    for done in range(1, ROUNDS + 1):
        points = [float(point) for point in np.linspace(low, high, 4)]
        for point in points:
            if point not in known:
                known[point] = score(point)
        scores = [known[point] for point in points]
        best = max(range(4), key=lambda index: (scores[index], index))
        low, high = points[max(best - 1, 0)], points[min(best + 1, 3)]
        if done >= ROUNDS_BEFORE_STOPPING and max(scores) - min(scores) <= CLOSE:
            break
    return max(known, key=lambda point: (known[point], point))


def area(accuracies: list[float]) -> float:
    """The area under accuracy over the rates at steps of 1, in [0, len(RATES) - 1]."""
    return float(trapezoid(accuracies))


def tensors_of_layers(
    model: nn.Module, sites: Iterable[Site], example: Batch, forward: Forward = DEFAULT
) -> dict[Site, tuple[str, ...]]:
    """The names of the floating-point tensors that belong to the layer of each site.

    They are the tensors of the modules that begin to run after the previous site and before this
    one. Where no such module has tensors, the layer is that of the previous site. A module that is
    never called as such (the output projection of nn.MultiheadAttention) belongs to its parent.

    Args:
        model: has a clip at each site; runs on ``example`` in eval mode.
        sites: all sites of the model.
        example: an input batch.
        forward: runs the model.
    """
    site_of = {model.get_submodule(site.name): site for site in sites}
    called: set[nn.Module] = set()
    _run_with_hook(model, example, forward, called.add)
    layers: dict[Site, tuple[str, ...]] = {}
    running: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module) -> None:
        if module in site_of:
            before = next(reversed(layers.values()), ())
            layers[site_of[module]] = tuple(running) or before
            running.clear()
        else:
            running.extend(_own_tensors(module, names[module], called))

    _run_with_hook(model, example, forward, enter)
    return layers


def _own_tensors(module: nn.Module, name: str, called: set[nn.Module]) -> Iterator[str]:
    prefix = f"{name}." if name else ""
    for members in (module._parameters, module._buffers):
        for own, tensor in members.items():
            if tensor is not None and tensor.is_floating_point():
                yield prefix + own
    for child, inner in module._modules.items():
        if inner is not None and inner not in called:
            yield from _own_tensors(inner, prefix + child, called)


def _run_with_hook(
    model: nn.Module, example: Batch, forward: Forward, enter: Callable[[nn.Module], None]
) -> None:
    """Runs ``model`` and calls ``enter`` with each module that begins to run."""
    with eval_mode(model), torch.no_grad(), ExitStack() as hooks:
        for module in model.modules():
            hook = module.register_forward_pre_hook(lambda inner, _: enter(inner))
            hooks.callback(hook.remove)
        forward(model, cloned(example))


METHOD = ClipMethod(ft_clipact, FtClipactOptions, resumes=True)
