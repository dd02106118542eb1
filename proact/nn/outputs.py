"""Find the logits in the output of a model that returns more than a tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output.

    They are the output itself if it is a tensor; otherwise its attribute or key ``logits``
    (Hugging Face), its key ``out`` (torchvision's segmentation models), or the first item of a
    tuple or list.

    Raises:
        TypeError: the output has none of these.
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
        "a model returns a tensor, an object with logits, or a tuple that starts with a tensor; "
        f"got {type(output).__name__}"
    )
