"""What a model in a coded encoding holds after faults: all of it is encoded, faulted and decoded.

Slow and plain: nothing that draws, filters or decodes the flips of an injection is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from encoding_oracle import words_of
from torch import Tensor, nn

from proact.encodings import Code
from proact.encodings.coded_word import CodedWord
from proact.faults import FaultSpace, Record
from proact.faults.exposed_tensor import ExposedTensor
from proact.ops._flip_reference import flipped_bits
from proact.ops.seeds import stream_of

Place = tuple[str, int, int]  # tensor, element, bit


class Read(NamedTuple):
    """What is read from faulty memory.

    Attributes:
        memory: the memory words of each tensor.
        outcomes: the outcome of each codeword with flips, by tensor and first element.
    """

    memory: dict[str, list[int]]
    outcomes: dict[tuple[str, int], str]


def network() -> nn.Module:
    """Tensors of odd sizes: the last codewords are cut short, and some tensors have no whole one.

    The range of one bias does not include 0.
    """
    torch.manual_seed(11)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5, 13)
    )
    model.register_parameter("gain", nn.Parameter(torch.tensor([1.5])))
    with torch.no_grad():
        model.get_parameter("4.bias").add_(3.0)
        model.get_buffer("1.running_mean").sub_(0.75)
    return model


def drawn_places(space: Iterable[ExposedTensor], ber: float, seed: int, trial: int) -> list[Place]:
    """The bits that independent flips hit, from the plain sampler."""
    places: list[Place] = []
    for exposed in space:
        word = exposed.word
        assert isinstance(word, CodedWord)
        width, size, name = word.format.bits, word.fitted.code.words, exposed.name
        pattern = (ber, seed, trial)
        mask = exposed.mask & ((1 << width) - 1)
        if mask:
            own = flipped_bits(exposed.elements, mask, *pattern, stream_of(name))
            places += [(name, element, bit) for element, bit in own]
        if exposed.mask >> width:
            number = -(-exposed.elements // size)
            stream = stream_of(f"{name}:check")
            check = flipped_bits(number, exposed.mask >> width, *pattern, stream)
            places += [(name, number * size, width + bit) for number, bit in check]
    return places


def places_of(record: Record) -> list[Place]:
    """The flips that a record lists."""
    faults = record.faults()
    columns = (faults[name].tolist() for name in ("tensor", "element", "bit"))
    return list(zip(*columns, strict=True))


def read(model: nn.Module, encoding: str, places: Iterable[Place]) -> Read:
    """Encodes all of an encoded model, flips bits, and decodes all of it."""
    flips: dict[str, list[tuple[int, int]]] = {}
    for (name, element, bit), times in Counter(places).items():
        if times % 2:
            flips.setdefault(name, []).append((element, bit))
    found = Read({}, {})
    for exposed in FaultSpace(model, encoding):
        _read_tensor(exposed, flips.get(exposed.name, []), found)
    return found


def _read_tensor(exposed: ExposedTensor, flips: list[tuple[int, int]], found: Read) -> None:
    word, tensor = exposed.word, exposed.tensor
    assert isinstance(word, CodedWord)
    fitted, count = word.fitted, tensor.numel()
    whole = count if fitted.rest is None else count - count % fitted.code.words
    memory, dtype = words_of(tensor), tensor.dtype
    elements = np.arange(count, dtype=np.uint64)
    clean = word.format.words_in(np.array(memory, np.uint64), dtype, elements).tolist()
    after = list(clean)
    for code, begin, end in ((fitted.code, 0, whole), (fitted.rest, whole, count)):
        if code is not None and begin < end:
            mine = [(element, bit) for element, bit in flips if begin <= element < end]
            after[begin:end] = _read_words(exposed, code, clean, begin, end, mine, found)
    changed = [element for element in range(count) if after[element] != clean[element]]
    words = np.array([after[element] for element in changed], np.uint64)
    written = word.format.memory_of(words, dtype, np.array(changed, np.uint64)).tolist()
    for element, value in zip(changed, written, strict=True):
        memory[element] = value
    found.memory[exposed.name] = memory


def _read_words(
    exposed: ExposedTensor,
    code: Code,
    clean: list[int],
    begin: int,
    end: int,
    flips: list[tuple[int, int]],
    found: Read,
) -> list[int]:
    word, size = exposed.word, code.words
    assert isinstance(word, CodedWord)
    padded = clean[begin:end] + [0] * (-(end - begin) % size)
    rows = np.array(padded, np.uint64).reshape(-1, size)
    stored, check = code.encode(rows)
    hit: dict[int, int] = Counter()
    for element, bit in flips:
        number, position = divmod(element - begin, size)
        hit[number] += 1
        if bit < word.format.bits:
            stored[number, position] ^= np.uint64(1 << bit)
        else:
            assert position == 0
            check[number] ^= np.uint64(1 << (bit - word.format.bits))
    decoded, detected = code.decode(stored, check)
    after: list[int] = []
    for number, row in enumerate(decoded.tolist()):
        begins = begin + number * size
        here = min(size, end - begins)
        is_detected = bool(detected[number]) or any(row[here:])
        values = [_as_read(word, w, payload) for w, payload in zip(row, code.payloads, strict=True)]
        if is_detected and not code.masks_detected:
            values = [_replacement(exposed)] * size
        if word.limits is not None and not all(_in_range(exposed, values[:here])):
            is_detected = True
            within = [*_in_range(exposed, values[:here]), *[True] * (size - here)]
            values = [
                value if is_within else _replacement(exposed)
                for value, is_within in zip(values, within, strict=True)
            ]
        after += values[:here]
        is_right = values[:here] == clean[begins : begins + here]
        outcome = "detected" if is_detected else "corrected" if is_right else "miscorrected"
        if number in hit:
            found.outcomes[exposed.name, begins] = outcome
        else:
            assert is_right
            assert not is_detected
    return after


def _as_read(word: CodedWord, stored: int, payload: int) -> int:
    """Check bits of integers read as 0, or as copies of the sign above the payload."""
    if not word.format.name.startswith(("q", "int")) or word.format.name in ("int16", "int32"):
        return stored
    sign = 1 << (word.format.bits - 1)
    result = stored & payload
    if stored & sign:
        place = sign >> 1
        while not payload & place:
            result |= place
            place >>= 1
    return result


def _replacement(exposed: ExposedTensor) -> int:
    """The word of the number nearest to 0 between the smallest and the largest clean value.

    It is the largest running variance, and the median of other numbers of a normalisation.
    """
    low, high = float(exposed.tensor.min()), float(exposed.tensor.max())
    value = min(max(0.0, low), high)
    if exposed.name.startswith("1."):
        is_variance = exposed.name.endswith("running_var") and low < high
        value = high if is_variance else float(exposed.tensor.median())
    word = exposed.word
    assert isinstance(word, CodedWord)
    return int(word.format.words(np.array([value]), np.zeros(1, np.uint64))[0])


def _in_range(exposed: ExposedTensor, words: list[int]) -> list[bool]:
    """Whether words mean numbers between the smallest and the largest clean one."""
    word = exposed.word
    assert isinstance(word, CodedWord)
    assert not word.format.name.startswith("int")  # whose scales depend on the element
    values = word.format.values(np.array(words, np.uint64), np.zeros(len(words), np.uint64))
    low, high = float(exposed.tensor.min()), float(exposed.tensor.max())
    return [bool(low <= value <= high) for value in values]


def same_memory(model: nn.Module, memory: dict[str, list[int]]) -> bool:
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return all(words_of(state[name]) == words for name, words in memory.items())
