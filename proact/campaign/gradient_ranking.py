"""Criticality of layers, channels, bits and words, estimated from gradients without injection.

A flip that changes a parameter by d changes the loss of a sample by about g d + h d^2 / 2, with the
gradient g and the second derivative h (Y. LeCun, J. Denker, S. Solla, "Optimal Brain Damage", NIPS
1989). The mean square of the gradients of single samples stands for h (the empirical Fisher
information). Most flips that matter leave the range of this expansion, so that it is bounded: the
harm of a flip is 1 - exp(-(|g d| + h d^2 / 2)), in [0, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor, nn

from proact.campaign.sample_losses import LossGradients, SampleLoss, SampleLosses
from proact.campaign.scale_gradients import gradients_of_scales, values_of_scales
from proact.data import Data
from proact.data.dataset import SamplesOrData, as_evaluation
from proact.encodings import Bits
from proact.encodings.scaled_words import StoredScale
from proact.faults import ExposedTensor, FaultSpace, encode
from proact.faults.bounds import guards_of
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.selectors import Selector
from proact.nn.batches import Batch
from proact.nn.forward import Forward, OutputSelector
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.plan import checked_integer
from proact.results.result import Result
from proact.text import short_repr

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 1 << 18  # elements whose flips are estimated at a time
_LARGEST = float(np.finfo(np.float32).max)  # stands for infinity and NaN


@dataclass(frozen=True, eq=False)
class TensorCriticality:
    """The estimated harm of single flips in one tensor.

    Attributes:
        name: of the tensor.
        layer: the module that holds it.
        shape: of the tensor.
        word: the stored form of its elements.
        of_bits: by bit number (0 is the lowest), the mean harm of a flip of this bit, in [0, 1).
        of_words: the mean harm of a flip in each word, float32 with the tensor's shape.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    word: str
    of_bits: Mapping[int, float]
    of_words: NDArray[np.float32]

    @property
    def bits(self) -> int:
        """The number of bits that were estimated."""
        return len(self.of_bits) * self.of_words.size

    @property
    def mean(self) -> float:
        """The mean harm of a flip in the tensor."""
        return float(self.of_words.mean(dtype=np.float64))


class Criticality:
    """The estimated harm of single flips in a model, by tensor, layer, channel, bit and word.

    Attributes:
        tensors: the tensors that were estimated.
        not_estimated: the names of tensors without a gradient, or whose gradient is 0 on all
            samples, such as thresholds in zero mode. Their flips may harm all the same.
    """

    def __init__(self, tensors: Sequence[TensorCriticality], not_estimated: Sequence[str]) -> None:
        self.tensors, self.not_estimated = tuple(tensors), tuple(not_estimated)

    def by_layer(self) -> dict[str, float]:
        """The mean harm of a flip in each layer, in the order of the model."""
        return self._means((each.layer, each.mean, each.bits) for each in self.tensors)

    def by_bit(self) -> dict[str, float]:
        """The mean harm of a flip of each bit, the lowest one of each kind of word first.

        The names are those of `proact.campaign.per_bit`: with words of several kinds, bit 7 of int8
        and bit 7 of float32 are ``int8 7`` and ``float32 7``.
        """
        words = list(dict.fromkeys(each.word for each in self.tensors))
        parts = [
            (words.index(each.word), bit, harm, each.of_words.size)
            for each in self.tensors
            for bit, harm in each.of_bits.items()
        ]
        return self._means(
            (f"{words[word]} {bit}" if len(words) > 1 else str(bit), harm, elements)
            for word, bit, harm, elements in sorted(parts)
        )

    def by_channel(self, tensor: str) -> NDArray[np.float64]:
        """The mean harm of a flip in each output channel (first index) of a tensor, (channels,).

        Raises:
            ValueError: a tensor that was not estimated.
        """
        for each in self.tensors:
            if each.name == tensor:
                by_channel = each.of_words.reshape((*each.shape, 1)[0], -1)  # a scalar is a channel
                means: NDArray[np.float64] = by_channel.mean(1, dtype=np.float64)
                return means
        raise ValueError(f"{short_repr(tensor)} is not among the tensors that were estimated")

    def words(self, count: int) -> pd.DataFrame:
        """The ``count`` most critical words: tensor, element (row-major index) and harm."""
        import pandas as pd

        parts = []
        for each in self.tensors:
            flat = each.of_words.reshape(-1)
            elements = np.argsort(-flat, kind="stable")[:count]
            parts.append(
                pd.DataFrame({"tensor": each.name, "element": elements, "harm": flat[elements]})
            )
        every: pd.DataFrame = pd.concat(parts, ignore_index=True)
        largest: pd.DataFrame = every.nlargest(count, "harm", keep="first").reset_index(drop=True)
        return largest

    def most_critical(self, share: float) -> tuple[str, ...]:
        """The tensors with the most harm per bit that take at most ``share`` of all bits.

        They suit a selector of `proact.faults.MixedEncoding`, which gives them a stronger code.

        Args:
            share: of the estimated bits, in (0, 1].

        Raises:
            ValueError: a share out of range.
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share is a number in (0, 1], got {short_repr(share)}")
        left = share * sum(each.bits for each in self.tensors)
        chosen = []
        for each in sorted(self.tensors, key=lambda each: -each.mean):
            if each.bits <= left:
                left -= each.bits
                chosen.append(each.name)
        return tuple(chosen)

    def rank_correlation(self, sweep: Result) -> float:
        """Spearman's rank correlation with the losses that injection measured, in [-1, 1].

        Args:
            sweep: the result of `proact.campaign.per_layer` or `per_bit` on the same model.

        Raises:
            ValueError: a result without strata, or fewer than three common ones.
        """
        found = self.by_bit() if sweep.spec.kind == "bit" else self.by_layer()
        common = [stratum for stratum in sweep.strata if stratum.name in found]
        if len(common) < 3:
            raise ValueError(
                f"expected the result of per_layer or per_bit on the same model, got a result with "
                f"{len(common)} of its layers or bits"
            )
        estimated = [found[stratum.name] for stratum in common]
        measured = [each.loss.estimate for each in common]
        return float(scipy.stats.spearmanr(estimated, measured).statistic)

    @staticmethod
    def _means(parts: Iterator[tuple[str, float, int]]) -> dict[str, float]:
        """Means by name, weighted by the last entries."""
        sums: dict[str, list[float]] = {}
        for name, mean, weight in parts:
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += mean * weight
            total[1] += weight
        return {name: total / weight for name, (total, weight) in sums.items()}


def criticality(
    model: nn.Module,
    data: SamplesOrData,
    encoding: EncodingLike = "float32",
    *,
    where: Selector = "*",
    bits: Bits = None,
    samples: int = 64,
    loss: SampleLoss | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
) -> Criticality:
    """Estimate how much a flip of each stored bit harms a model, without injecting any.

    The estimate ranks; it does not replace `proact.campaign.per_layer` and `per_bit`, which measure
    (`Criticality.rank_correlation` compares them).

    Args:
        model: without guards; it is not changed.
        data: the validation split of a `proact.data.Data`, or samples as for `worst_case`.
        encoding: the stored form of the parameters, without a code.
        where, bits: the bits that are estimated, as for `proact.faults.BitFlip`.
        samples: the number of samples whose gradients are used, one by one.
        loss, forward, output: as for `worst_case`.

    Raises:
        ValueError: a model with guards, an encoding with a code, a model without gradients, or
            outputs that need a loss of the user's.
    """
    encoding = checked_encoding(encoding)
    if encoding.is_coded:
        raise ValueError(f"criticality takes an encoding without a code, got {encoding.name}")
    if guards := guards_of(model):
        raise ValueError(
            f"criticality takes a model without guards, and {type(model).__name__} has "
            f"{', '.join(guards)}: remove them, or measure with per_layer and per_bit"
        )
    if checked_integer("samples", samples, 1 << 31) == 0:
        raise ValueError("samples is at least 1, got 0")
    split = data.validation if isinstance(data, Data) else as_evaluation(data)
    stored = encode(model, encoding, where=where).eval()
    losses = SampleLosses(stored, split, samples, Forward(forward, output), loss, one_by_one=True)
    space = FaultSpace(stored, encoding, where, bits)
    scales = [each.stored for each in space if isinstance(each.stored, StoredScale)]
    means, squares = _moments(stored, scales, losses)
    found, without = list[TensorCriticality](), list[str]()
    for exposed in space:
        if exposed.name in means and squares[exposed.name].any():
            found.append(_estimated(exposed, means[exposed.name], squares[exposed.name]))
        else:
            without.append(exposed.name)
    return Criticality(found, without)


def _moments(
    model: nn.Module, scales: Sequence[StoredScale], losses: SampleLosses
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and mean square of the gradients of single samples, by tensor."""
    values = {stored.name: stored.tensor for stored in stored_tensors(model)}
    values |= values_of_scales(scales)
    sums, squares, count = dict[str, Tensor](), dict[str, Tensor](), 0
    for gradients in LossGradients(model, losses).each(values):
        count += 1
        own = gradients_of_scales(scales, values, gradients)
        for name, gradient in (gradients | own).items():
            wide = gradient.double()
            sums[name] = sums[name] + wide if name in sums else wide
            squares[name] = squares[name] + wide**2 if name in squares else wide**2
    return (
        {name: total / count for name, total in sums.items()},
        {name: total / count for name, total in squares.items()},
    )


def _values_of(exposed: ExposedTensor) -> NDArray[np.float64]:
    if isinstance(exposed.stored, StoredScale):
        return exposed.stored.part.values(np.arange(exposed.elements))
    values: NDArray[np.float64] = exposed.tensor.detach().reshape(-1).double().cpu().numpy()
    return values


def _estimated(exposed: ExposedTensor, mean: Tensor, square: Tensor) -> TensorCriticality:
    """The harm of each flip in a tensor, from its gradients."""
    values = _values_of(exposed)
    slope, curvature = (t.reshape(-1).cpu().numpy() for t in (mean.abs(), square))
    of_words = np.zeros(len(values))
    of_bits = dict.fromkeys(exposed.bit_numbers, 0.0)
    for begin in range(0, len(values), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        elements = np.arange(begin, begin + len(values[part]), dtype=np.uint64)
        words = exposed.word.words(values[part], elements)
        before = exposed.word.values(words, elements)
        for bit in of_bits:
            after = exposed.word.values(words ^ np.uint64(1 << bit), elements)
            with np.errstate(over="ignore", invalid="ignore"):
                step = np.nan_to_num(np.abs(after - before), nan=_LARGEST, posinf=_LARGEST)
                harm = -np.expm1(-(slope[part] * step + curvature[part] * step * step / 2))
            of_words[part] += harm
            of_bits[bit] += float(harm.sum())
    return TensorCriticality(
        exposed.name,
        exposed.stored.layer,
        tuple(exposed.tensor.shape),
        exposed.word.name,
        {bit: total / len(values) for bit, total in of_bits.items()},
        (of_words / len(of_bits)).astype(np.float32).reshape(exposed.tensor.shape),
    )
