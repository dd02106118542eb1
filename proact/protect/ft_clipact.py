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
from torch import Tensor, nn

from proact.data import Data
from proact.encodings import Encoding, encoding_named
from proact.faults import BitFlip, Where
from proact.nn import Site
from proact.nn.site import evaluating
from proact.nn.sites import place_at_sites
from proact.ops.plan import SEEDS, checked_integer
from proact.protect.checkpointing import Session
from proact.protect.clips import Clips, clips_at
from proact.protect.fault_scoring import UnderFaults
from proact.protect.options import ClipOptions, check_deployed_mode, checked_count

#: Bit error rates, per bit, that are set at equal steps on the score's axis.
RATES = (1e-7, 1e-6, 3e-6, 1e-5, 3e-5)
ROUNDS = 4  # N of the paper's algorithm
ROUNDS_BEFORE_STOPPING = 3  # M
CLOSE = 0.2  # delta: scores that differ by no more count as equal


@dataclass(frozen=True)
class FtClipactOptions(ClipOptions):
    """Options of ``protect(model, "ft-clipact", ...)``, beside those of `ClipOptions`.

    Attributes:
        granularity: ``"layer"``.
        mode: ``"zero"`` (published) or ``"saturate"``.
        patterns: fault patterns a rate, the same for every candidate (count).
        images_per_pattern: validation images a pattern (count).
        encoding: the stored form in which faults hit while thresholds are searched.
        seed: of the fault patterns; in [0, 2^63).
    """

    granularity: str = "layer"
    mode: str = "zero"
    patterns: int = 16
    images_per_pattern: int = 64
    encoding: str | Encoding = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_deployed_mode(self.mode)
        if self.granularity != "layer":
            raise ValueError(f"ft-clipact's granularity is layer; got {self.granularity!r}")
        checked_count("patterns", self.patterns)
        checked_count("images_per_pattern", self.images_per_pattern)
        encoding_named(self.encoding)
        checked_integer("seed", self.seed, SEEDS)


def ft_clipact(model: nn.Module, data: Data, options: FtClipactOptions, session: Session) -> Clips:
    bounds = options.profiled(model, data, options.granularity)
    thresholds = session.resumed(bounds)
    network = place_at_sites(model, clips_at(thresholds, options.mode))
    faulty = UnderFaults(
        network,
        encoding_named(options.encoding),
        data.validation,
        options.patterns,
        options.images_per_pattern,
        options.seed,
    )
    layers = tensors_of_layers(network, bounds, data.train.images[:1])
    for site in session.unfinished(bounds, dict.fromkeys(bounds, 1.0)):
        if not layers[site]:
            session.tell(f"{site.name}: no tensor that could fail comes before it")
        else:
            thresholds[site] = _searched(faulty, site, bounds[site], layers[site])
        faulty.set_threshold(site, thresholds[site])
        share = float(thresholds[site] / bounds[site])
        session.tell(f"{site.name}: {share:.3f} of the profile's maximum ({session.place})")
        session.finish(site, thresholds[site])
    return clips_at(thresholds, options.mode)


def _searched(faulty: UnderFaults, site: Site, highest: Tensor, tensors: tuple[str, ...]) -> Tensor:
    where = Where(name=tensors)

    def score(threshold: float) -> float:
        faulty.set_threshold(site, torch.full_like(highest, threshold))
        return area([faulty.accuracy(BitFlip(rate, where=where)) for rate in RATES])

    return torch.full_like(highest, search(score, float(highest)))


def search(score: Callable[[float], float], highest: float) -> float:
    """The best of the points that are looked at in [0, highest] (arXiv 1912.00941, algorithm 1).

    Each round cuts the interval in thirds, scores its four points, and goes on between the
    neighbours of the best one.
    """
    known: dict[float, float] = {}
    low, high = 0.0, highest
    for done in range(1, ROUNDS + 1):
        points = [float(point) for point in np.linspace(low, high, 4)]
        for point in points:
            if point not in known:
                known[point] = score(point)
        scores = [known[point] for point in points]
        best = max(range(4), key=lambda index: (scores[index], index))  # among equals the loosest
        low, high = points[max(best - 1, 0)], points[min(best + 1, 3)]
        if done >= ROUNDS_BEFORE_STOPPING and max(scores) - min(scores) <= CLOSE:
            break
    return max(known, key=lambda point: (known[point], point))


def area(accuracies: list[float]) -> float:
    """Under accuracy over the rates at steps of 1; in [0, len(RATES) - 1]."""
    return float(np.trapezoid(accuracies))


def tensors_of_layers(
    network: nn.Module, sites: Iterable[Site], example: Tensor
) -> dict[Site, tuple[str, ...]]:
    """What belongs to a site's layer: the tensors of the modules that begin to run after the site
    before it and before itself; where there are none, those of the layer before.

    A module that is never called as one (the output projection of nn.MultiheadAttention) belongs to
    its parent.
    """
    site_of = {network.get_submodule(site.name): site for site in sites}
    called: set[nn.Module] = set()
    _watch(network, example, called.add)
    layers: dict[Site, tuple[str, ...]] = {}
    running: list[str] = []
    names = {module: name for name, module in network.named_modules()}

    def enter(module: nn.Module) -> None:
        if module in site_of:
            before = next(reversed(layers.values()), ())
            layers[site_of[module]] = tuple(running) or before
            running.clear()
        else:
            running.extend(_own_tensors(module, names[module], called))

    _watch(network, example, enter)
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


def _watch(network: nn.Module, example: Tensor, enter: Callable[[nn.Module], None]) -> None:
    """Runs the network and tells of each module that begins to run."""
    with evaluating(network), torch.no_grad(), ExitStack() as hooks:
        for module in network.modules():
            hook = module.register_forward_pre_hook(lambda inner, _: enter(inner))
            hooks.callback(hook.remove)
        network(example)
