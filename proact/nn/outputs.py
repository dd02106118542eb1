"""What counts as a classifier's output where a network returns more than a tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """The tensor that classifies: the output itself, its ``logits`` (an attribute or a key, as
    Hugging Face's networks name it) or key ``out`` (as torchvision's segmentation networks do), or
    the first of a tuple or list.

    Raises:
        TypeError: none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        named = output.get("logits", output.get("out"))
    else:
        named = getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(
        "a network returns a tensor, something with logits, or a tuple that starts with a tensor; "
        f"got {type(output).__name__}"
    )
