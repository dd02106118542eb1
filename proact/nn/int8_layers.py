"""8-bit layers of bitsandbytes: find the words and scales with which they compute.

A quantised layer stores its weight (rows, columns) as int8 words and one float32 scale a row; the
value of a word is ``word * scale / 127``. `Linear8bitLt` computes with the words ``CB`` and the
scales ``SCB``. Its parameter holds both until the first forward pass, which moves them to the
attribute ``state`` of the layer; ``CB`` is the memory of the parameter itself. `Embedding8bit`
computes with its parameter and the parameter's ``SCB``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from proact.ops._memory import extent
from proact.ops.plain_memory import has_plain_memory


def is_int8_parameter(value: Any) -> bool:
    """Whether ``value`` is a parameter of bitsandbytes with 8-bit words, quantised or not yet."""
    return _is_of_bitsandbytes(type(value), "Int8Params")


def int8_parameters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The names in ``module`` and the parameters of its own that are 8-bit parameters.

    The weight of an 8-bit layer is among them even if it is a plain parameter.
    """
    is_layer = _is_linear(module) or _is_embedding(module)
    for name, parameter in module._parameters.items():
        if is_int8_parameter(parameter) or (is_layer and name == "weight"):
            yield name, parameter


def row_scales(layer: nn.Module, weight: Any) -> Tensor | None:
    """The float32 scales (rows,) with which ``layer`` computes; None if `lack_of_words` tells why
    faults cannot hit its words."""
    if lack_of_words(layer, weight) is not None:
        return None
    scales: Tensor = _computed_with(layer, weight)[1]
    return scales


def lack_of_words(layer: nn.Module, weight: Any) -> str | None:
    """Why faults cannot hit the words with which ``layer`` computes; None if they can.

    The reason and its remedy are the rest of a sentence that names the layer.
    """
    is_linear, lack = _is_linear(layer), None
    state: Any = vars(layer).get("state")
    if not is_int8_parameter(weight):
        lack = (
            "holds a plain parameter in place of an Int8Params, as torch.load and pickle make it: "
            "load a state_dict instead"
        )
    elif not (is_linear or _is_embedding(layer)):
        lack = (
            "holds an 8-bit parameter of bitsandbytes and is neither a Linear8bitLt nor an "
            "Embedding8bit: use one of these"
        )
    elif weight.has_fp16_weights or (is_linear and state.has_fp16_weights):
        lack = (
            "keeps its weights in floating point and computes with an int8 copy of them: make it "
            "with has_fp16_weights=False"
        )
    elif weight.dtype != torch.int8:
        lack = "is not quantised yet: call to(device) on the model"
    elif is_linear and state.threshold > 0:
        lack = (
            "computes columns with outliers in floating point, so that an answer depends on the "
            "other inputs of its batch: set state.threshold of the layer to 0 "
            "(llm_int8_threshold=0.0 in transformers)"
        )
    else:
        words, scales = _computed_with(layer, weight)
        if words is None or not _are_row_scales(scales, weight):
            lack = "lacks the float32 scales of its rows: quantise a new layer with to(device)"
        elif not _is_same_memory(words, weight):
            lack = (
                "computes with a copy of its parameter, as moving a model to another device makes "
                "it: run the model on one batch first"
            )
    return lack


def settle(model: nn.Module) -> None:
    """Brings the 8-bit layers of a copied model into their state after the first forward pass.

    Otherwise that pass would move tensors from the parameters to the layers. The layers compute
    with the same numbers as before.
    """
    for layer in model.modules():
        for _, weight in int8_parameters(layer):
            state: Any = vars(layer).get("state")
            if not _moves_tensors(layer, weight):
                continue
            if weight.CB is not None:
                layer.init_8bit_state()  # type: ignore[operator]
            if state.CB is not None:
                weight.data = state.CB
            # Each forward pass sets this from ``training``. Campaigns evaluate, and would otherwise
            # find that a forward pass writes to the layer.
            state.is_training = False


def refuse_unsettled(model: nn.Module) -> None:
    """ValueError if a forward pass of a copy with the same parameters would change ``model``."""
    for name, layer in model.named_modules():
        for leaf, weight in int8_parameters(layer):
            state: Any = vars(layer).get("state")
            if not _moves_tensors(layer, weight):
                continue
            if state.CB is None or not _is_same_memory(state.CB, weight):
                full_name = f"{name}.{leaf}" if name else leaf
                raise ValueError(
                    f"{full_name} ({type(layer).__name__}) gets its final place in the first "
                    "forward pass: quantise the model with to(device) and run it on one batch first"
                )


def _moves_tensors(layer: nn.Module, weight: Any) -> bool:
    """Whether the first forward pass moves tensors from ``weight`` to ``layer``."""
    return (
        is_int8_parameter(weight)
        and _is_linear(layer)
        and not vars(layer)["state"].has_fp16_weights
    )


def _computed_with(layer: nn.Module, weight: Any) -> tuple[Any, Any]:
    """The words and scales that a forward pass reads; None for those that are missing."""
    if not _is_linear(layer):
        return weight, weight.SCB
    # The first forward pass replaces those of the state by those of the parameter.
    holder: Any = weight if weight.CB is not None else vars(layer)["state"]
    return holder.CB, holder.SCB


def _are_row_scales(scales: Any, weight: Tensor) -> bool:
    return (
        isinstance(scales, Tensor)
        and scales.dtype == torch.float32
        and scales.shape == weight.shape[:1]
    )


def _is_same_memory(words: Tensor, weight: Tensor) -> bool:
    return (
        has_plain_memory(words)
        and has_plain_memory(weight)
        and (words.dtype, words.shape, words.stride(), words.device, extent(words))
        == (weight.dtype, weight.shape, weight.stride(), weight.device, extent(weight))
    )


def _is_linear(layer: nn.Module) -> bool:
    return _is_a(type(layer), "Linear8bitLt")


def _is_embedding(layer: nn.Module) -> bool:
    return _is_a(type(layer), "Embedding8bit")


def _is_a(kind: type, name: str) -> bool:
    return any(_is_of_bitsandbytes(base, name) for base in kind.__mro__)


def _is_of_bitsandbytes(kind: type, name: str) -> bool:
    return kind.__name__ == name and kind.__module__.startswith("bitsandbytes.")
