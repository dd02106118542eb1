"""Scrubbing in numpy: the oracle, the fallback, and the form for memory without native code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from proact.ops._range_reference import nearest_to_zero
from proact.ops.in_place_code import InPlaceCode, TensorCode, Words, memory_words
from proact.ops.sweep_log import ReferenceSweepLog

#: The lower and upper bounds of a tensor's replacements.
Bounds = tuple[Tensor, Tensor]


def scrub(
    tensor: Tensor,
    coded: TensorCode,
    bounds: Bounds | None,
    log: ReferenceSweepLog | None,
    name: str,
) -> tuple[int, int]:
    """Scrubs one tensor; returns the numbers of corrected and of detected codewords."""
    with torch.inference_mode():
        memory = tensor.detach()
        flat = memory_words(memory.contiguous())
        before = flat.cpu().numpy()
        after = before.copy()
        corrected = detected = 0
        for code, first, codewords in coded.parts(memory.numel()):
            last = first + codewords * code.words
            packed = _packed(before[first:last], code)
            found = code.syndromes(packed)
            is_wrong = np.flatnonzero(found)
            syndromes = found[is_wrong]
            result = (packed[is_wrong] ^ code.flips[syndromes]) & code.keeps[syndromes]
            is_detected = code.is_detected[syndromes]
            if not code.masks_detected and is_detected.any():
                replaced = is_wrong[is_detected]
                words = replaced[:, None] * code.words + np.arange(code.words) + first
                result[is_detected] = code.encoded(
                    _packed(_replacements(words.reshape(-1), memory, bounds), code)
                )
            packed[is_wrong] = result
            after[first:last] = packed.astype(f"u{code.codeword_bytes}").view(before.dtype)
            corrected += int(np.count_nonzero(~is_detected))
            detected += int(np.count_nonzero(is_detected))
        changed = np.flatnonzero(before != after)
        if len(changed):
            # A tensor without dimensions takes no indices.
            integers = memory.unsqueeze(0).view(flat.dtype)
            places = tuple(
                torch.from_numpy(index).to(memory.device)
                for index in np.unravel_index(changed, tuple(integers.shape))
            )
            if log is not None:
                log.note(name, integers, places)
            integers[places] = torch.from_numpy(after[changed]).to(memory.device)
        return corrected, detected


def _packed(words: np.ndarray, code: InPlaceCode) -> Words:
    return np.ascontiguousarray(words).view(f"u{code.codeword_bytes}").astype(np.uint64)


def _replacements(words: np.ndarray, memory: Tensor, bounds: Bounds | None) -> np.ndarray:
    """The replacement of each of the words with the given numbers, as integers."""
    if bounds is None:
        return np.zeros(len(words), f"i{memory.element_size()}")
    number = nearest_to_zero(*bounds, memory.dtype).expand((1, *memory.shape))
    index = np.unravel_index(words, tuple(number.shape))
    places = tuple(torch.from_numpy(each).to(memory.device) for each in index)
    return memory_words(number[places]).cpu().numpy()
