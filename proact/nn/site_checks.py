"""Check that clips at a model's sites leave its output as it is."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn

from proact.nn.batches import Batch, cloned
from proact.nn.forward import Forward, described
from proact.nn.outputs import output_tensors
from proact.nn.site import Site, eval_mode, without_fast_path
from proact.nn.written_state import restored
from proact.text import label, short_repr

#: What fused kernels may change by rounding, as a share of the largest output.
_ROUNDING = 1e-3


def refuse_irreplaceable(
    model: nn.Module,
    sites: Sequence[Site],
    example: Batch,
    forward: Forward,
    with_neutral_clips: Callable[[Sequence[Site]], tuple[nn.Module, list[nn.Module]]],
) -> None:
    """Raises ValueError if clips with an infinite threshold change the output.

    They do if the model reads the input that an in-place ReLU has changed, or if a forward was not
    traced faithfully.

    Args:
        model, sites: the sites of the model.
        example, forward: a batch, and how it enters the model.
        with_neutral_clips: makes a copy of the model with such clips at some sites; returns it with
            the clips.
    """
    expected = _outputs(model, example, forward)

    def changes_the_output(replaced: Sequence[Site]) -> bool:
        copied, clips = with_neutral_clips(replaced)
        runs: Counter[nn.Module] = Counter()
        with ExitStack() as hooks:
            for clip in clips:
                hooks.callback(clip.register_forward_hook(lambda m, _, __: runs.update([m])).remove)
            try:
                given = _outputs(copied, example, forward)
            except Exception as error:
                names = ", ".join(site.name for site in replaced)
                raise ValueError(
                    f"a forward with the activations {names} cannot be traced ({error}): use a "
                    "separate module for each call, or leave the module alone with skip="
                ) from error
        if any(runs[clip] != 1 for clip in clips):
            return True
        return len(given) != len(expected) or not all(map(_same_bits, given, expected))

    if changes_the_output(sites):
        culprit = next((site for site in sites if changes_the_output([site])), sites[0])
        raise ValueError(
            f"the activation {short_repr(culprit.name)} cannot be replaced, because a replacement "
            "changes the model's output: possible reasons are an in-place change that is read "
            "elsewhere, a hook that changes the activation, and a forward that draws at random; "
            f"skip=({culprit.name!r},) leaves it alone"
        )
    _warn_of_padding(model, sites, expected, example, forward)


def _warn_of_padding(
    model: nn.Module,
    sites: Sequence[Site],
    expected: Sequence[Tensor],
    example: Batch,
    forward: Forward,
) -> None:
    """Warns if the fused kernels of a transformer encoder give another output.

    Replacements turn them off. With a padding mask they return 0 at padded positions.
    """
    places = {place for site in sites for place in site.places}
    encoder = next(
        (
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.TransformerEncoder)
            and any(place.startswith(f"{name}." if name else "") for place in places)
        ),
        None,
    )
    if encoder is None:
        return
    fused = _outputs(model, example, forward, with_fused_kernels=True)
    largest = max(float(each.abs().max()) for each in expected if each.numel())
    differences = [float((a - b).abs().max()) for a, b in zip(expected, fused, strict=True)]
    if not max(differences, default=0.0) <= _ROUNDING * largest:
        warnings.warn(
            f"the fused kernels of {label(encoder) if encoder else 'the model'} "
            "(nn.TransformerEncoder) return 0 at padded positions, and a model with replaced "
            "activations computes without them, so that its output differs: let the forward pass "
            "ignore padded positions",
            stacklevel=2,
        )


def _outputs(
    model: nn.Module, example: Batch, forward: Forward, with_fused_kernels: bool = False
) -> list[Tensor]:
    kernels = nullcontext() if with_fused_kernels else without_fast_path()
    with eval_mode(model), kernels, torch.no_grad(), restored(model):
        output = Forward(forward.call)(model, cloned(example))
    tensors = output_tensors(output)
    if not tensors:
        raise TypeError(
            f"expected tensors in the output of {type(model).__name__}, which is "
            f"{described(output)}"
        )
    return tensors


def _same_bits(a: Tensor, b: Tensor) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))
