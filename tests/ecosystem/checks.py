"""What every model that others wrote has to pass, unmodified and with random weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from proact import campaign, protect
from proact.faults import ExactFlips
from proact.models import logits
from proact.nn import HyReLU, find_sites, replace_sites
from proact.nn.batches import Batch, tensors_in
from proact.nn.forward import Forward

CLASSES = 10


def images(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, size, size, generator=generator), torch.arange(20) % CLASSES


def check_protected(model: nn.Module, size: int, kinds: tuple[str, ...] = ("relu",)) -> int:
    """Sites are found, clips at the profile's maxima change no bit, and a campaign compares both.
    Returns the number of sites."""
    model.eval()
    data = images(size)
    sites = find_sites(model, data[0][:1], kinds)
    whole = (torch.cat([data[0], data[0]]), torch.cat([data[1], data[1]]))
    hardened = protect.protect(model, "ranger", whole, granularity="neuron", activations=kinds)
    profiled = protect.profile(model, data[0], kinds=kinds)
    saturated = {site: site.clip(maximum, "saturate") for site, maximum in profiled.items()}
    assert torch.equal(logits(replace_sites(model, saturated), data[0]), logits(model, data[0]))
    assert sum(isinstance(module, HyReLU) for module in hardened.modules()) == len(sites)
    cut = {site: site.clip(0.0) for site in sites}
    assert not torch.equal(logits(replace_sites(model, cut), data[0]), logits(model, data[0]))
    check_campaign({"plain": model, "ranger": hardened}, size)
    return len(sites)


def check_clips(
    model: nn.Module, batch: Batch, forward: Forward | None = None, skip: tuple[str, ...] = ()
) -> int:
    """Clips at the profile's maxima change no bit of any output, clips at 0 change some, and ranger
    protects the model from its inputs alone. Returns the number of sites."""
    model.eval()
    run = forward or Forward()
    options = {"forward": run, "skip": skip}
    sites = find_sites(model, batch, "all", **options)  # type: ignore[arg-type]
    profiled = protect.profile(model, batch, kinds="all", **options)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = tensors_in(run(model, batch))
        saturated = {site: site.clip(maximum, "saturate") for site, maximum in profiled.items()}
        kept = tensors_in(run(replace_sites(model, saturated), batch))
        cut = {site: site.clip(torch.tensor(0.0)) for site in sites}
        shut = tensors_in(run(replace_sites(model, cut), batch))
    assert all(map(torch.equal, kept, expected))
    assert not all(map(torch.equal, shut, expected))
    hardened = protect.protect(
        model, "ranger", batch, forward=run.call, output=run.output, activations="all", skip=skip
    )
    assert sum(isinstance(module, HyReLU) for module in hardened.modules()) == len(sites)
    return len(sites)


def check_campaign(variants: dict[str, nn.Module], size: int) -> None:
    before = {
        name: p.detach().clone() for m in variants.values() for name, p in m.named_parameters()
    }
    result = campaign.run(variants, images(size), [ExactFlips(20)], trials=2).to_pandas()
    assert list(result["variant"]) == list(variants)
    assert (result["flips"] == 20).all()
    assert all(0 <= a <= 1 and not math.isnan(a) for a in result["accuracy"])
    now = {name: p for m in variants.values() for name, p in m.named_parameters()}
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
