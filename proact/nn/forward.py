"""Run a model on a batch, and select the part of its output that counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from proact.nn.batches import Batch
from proact.nn.outputs import output_tensors
from proact.text import short_repr

#: Selects a part of an output: an attribute or key, a position, or a function of the output.
OutputSelector: TypeAlias = str | int | Callable[[Any], Any]


@dataclass(frozen=True)
class Forward:
    """How a batch enters a model, and which part of the output counts.

    By default a mapping enters as ``model(**batch)``, a tuple as ``model(*batch)``, and anything
    else as ``model(batch)``.

    Attributes:
        call: maps (model, batch) to the output; None for the default. It must run the model that
            it is given, because faults hit a copy of the user's model.
        output: the part of the output that counts: the name of an attribute or key (``"logits"``),
            a position, or a function of the output. None takes the output as it is.

    Raises:
        TypeError: ``call`` is not callable, or ``output`` is not a name, an integer or a callable.
    """

    call: Callable[[nn.Module, Batch], Any] | None = None
    output: OutputSelector | None = None

    def __post_init__(self) -> None:
        if self.call is not None and (not callable(self.call) or isinstance(self.call, nn.Module)):
            raise TypeError(
                "forward: expected a function of (model, batch) that runs the model it is given, "
                f"got {type(self.call).__name__}"
            )
        is_selector = isinstance(self.output, (str, int)) or callable(self.output)
        if self.output is not None and (not is_selector or isinstance(self.output, bool)):
            raise TypeError(
                "output: expected the name of an attribute or key, a position, or a function of "
                f"the output, got {short_repr(self.output)}"
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        """Return the selected part of the model's output.

        Raises:
            ValueError: the output has no such part.
        """
        return self.selected(self.raw(model, batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the selected part of the output as a tensor; see `logits_of`."""
        return logits_of(self(model, batch))

    def selected(self, output: Any) -> Any:
        """Return the part of an output that ``self.output`` selects."""
        if self.output is None:
            return output
        if callable(self.output):
            return self.output(output)
        try:
            # An index or attribute of a tensor is no part of the output: it would select a sample.
            if isinstance(output, Tensor):
                raise KeyError
            if isinstance(self.output, int) or isinstance(output, Mapping):
                return output[self.output]
            return getattr(output, self.output)
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ValueError(
                f"output={short_repr(self.output)} is not in the model's output, which is "
                f"{described(output)}"
            ) from None

    def raw(self, model: nn.Module, batch: Batch) -> Any:
        """Return the whole output of the model."""
        if self.call is not None:
            return self.call(model, batch)
        if isinstance(batch, Mapping):
            return model(**batch)
        if isinstance(batch, tuple):
            return model(*batch)
        return model(batch)


#: Runs a model as its inputs suggest, and takes its output as it is.
DEFAULT = Forward()


ForwardLike = Forward | Callable[[nn.Module, Batch], Any] | None


def as_forward(forward: ForwardLike) -> Forward:
    """Return ``forward`` as a `Forward`; a function maps (model, batch) to the output.

    Raises:
        TypeError: as `Forward`.
    """
    return forward if isinstance(forward, Forward) else Forward(forward)


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output.

    They are the output itself if it is a tensor; otherwise its attribute or key ``logits``
    (Hugging Face), its key ``out`` (torchvision's segmentation models), or the only tensor in it.

    Raises:
        TypeError: the output has none of these, or several tensors.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = output.get("logits", output.get("out"))
    else:
        named = getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    tensors = output_tensors(output)
    if len(tensors) == 1:
        return tensors[0]
    raise TypeError(
        "expected logits, which are a tensor, an object with the attribute logits, or a mapping "
        f"with the key logits or out; the model's output is {described(output)}: choose a part of "
        "it with output=, or return the logits alone"
    )


def described(output: Any) -> str:
    """Describe the structure of an output in an error message."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        kind = type(output).__name__
        if output and all(isinstance(part, Tensor) for part in output):
            shapes = ", ".join(str(tuple(part.shape)) for part in output)
            return f"a {kind} of {len(output)} tensors of the shapes {shapes}"
        return f"a {kind} of {', '.join(type(part).__name__ for part in output) or 'nothing'}"
    names = sorted(name for name in getattr(output, "__dict__", {}) if not name.startswith("_"))
    listed = f" with the attributes {', '.join(names)}" if names else ""
    return f"an object of type {type(output).__name__}{listed}"
