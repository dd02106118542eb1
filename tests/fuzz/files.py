"""Mutate valid files, and check that a reader accepts or refuses the result properly.

Every mutator takes valid bytes and a seed, and returns other bytes, the same ones for the same
seed. All but `bytes_mutated` and `text_mutated` repair checksums after the change, so that it
reaches what lies behind them.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import proact
from proact import ProactError
from proact.models import checkpoint

Mutator = Callable[[bytes, int], bytes]

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
#: Values of every type, in place of any value of a header.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, 1 << 70, float("nan"), float("inf")),
    *("", "x", "x" * 2_000, "a\nb\x1b[31m", '")+exit("', [], {}, [1], {"a": 1}, [[[[]]]]),
)
_WORDS = (
    *("null", "true", "-1", "0", "1e999", "9" * 500, "0x" + "f" * 500, "nan", "''", "x" * 2_000),
    *("[]", "{}", "&a [*a]", "*a", "!!int x", "!!timestamp x", "!!python/object:os.system x", "? "),
    *("[" * 200, "- " * 200, "%YAML 9.9\n", "\t", "\x00", "\u2028", '"\\e[31m"', ": ", "#", "<<: "),
)


def bytes_mutated(content: bytes, seed: int) -> bytes:
    """Change a few bytes, numbers or slices, or cut the end off."""
    draw = random.Random(seed)
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(changed) + 1) if draw.random() < 0.5 else draw.randrange(200)
        at = min(at, max(len(changed) - 1, 0))
        length = draw.choice((1, 2, 4, 8, 64))
        kind = draw.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            number = draw.choice(_NUMBERS).to_bytes(8, draw.choice(("little", "big")))
            changed[at : at + 4] = number[:4] if draw.random() < 0.5 else number[4:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length] or draw.randbytes(length)
        elif kind == 5:
            changed[at : at + length] = bytes(length)
        else:
            del changed[draw.randrange(len(changed) + 1) :]
    return bytes(changed)


def text_mutated(content: bytes, seed: int) -> bytes:
    """Change words, lines or characters of a text."""
    draw = random.Random(seed)
    lines = content.decode().split("\n")
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(lines))
        words = lines[at].split(" ")
        kind = draw.randrange(6)
        if kind == 0:
            words[draw.randrange(len(words))] = draw.choice(_WORDS)
            lines[at] = " ".join(words)
        elif kind == 1:
            position = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:position] + draw.choice(_WORDS) + lines[at][position:]
        elif kind == 2:
            lines[at] = "  " * draw.randrange(3) + lines[at].lstrip()
        elif kind == 3:
            lines.insert(draw.randrange(len(lines)), lines[at])
        elif kind == 4 and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = lines[at].replace(draw.choice(":,[]{}'- "), draw.choice(":,[]{}'- "), 1)
    return "\n".join(lines).encode()


def json_mutated(value: Any, seed: int) -> Any:
    """Replace, delete or repeat one value inside a JSON value."""
    draw = random.Random(seed)
    changed = copy.deepcopy(value)
    holder, key = draw.choice(list(_places(changed)))
    kind = draw.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.append(holder[key])
    elif kind == 2:
        other, place = draw.choice(list(_places(value)))
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = draw.choice(_VALUES)
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def tensors_mutated(content: bytes, seed: int) -> bytes:
    """Change the header or a tensor of a file that `checkpoint.write` wrote; the digest fits."""
    draw = random.Random(seed)
    header_size = struct.unpack("<Q", content[:8])[0]
    metadata = dict(json.loads(content[8 : 8 + header_size]).get("__metadata__", {}))
    tensors: dict[str, Tensor] = dict(safetensors.torch.load(content))
    metadata.pop(checkpoint.DIGEST, None)
    if metadata and draw.random() < 0.6:
        key = draw.choice(sorted(metadata))
        metadata[key] = json.dumps(json_mutated(json.loads(metadata[key]), seed))
    elif tensors:
        name = draw.choice(sorted(tensors))
        tensor = tensors.pop(name)
        kind = draw.randrange(6)
        if kind == 0:
            tensors[draw.choice(("x", "", name + ".x", "a\nb"))] = tensor
        elif kind == 1:
            tensors[name] = tensor.flatten()[: draw.choice((0, 1, 3))].clone()
        elif kind == 2:
            tensors[name] = tensor.to(draw.choice((torch.float16, torch.float64, torch.int32)))
        elif kind == 3:
            bad = draw.choice((float("nan"), float("inf"), -1.0, 0.0))
            tensors[name] = torch.full_like(tensor, bad)
        elif kind == 4:
            tensors[name] = tensor[None].clone()
    metadata[checkpoint.DIGEST] = checkpoint.content_digest(metadata, tensors)
    return safetensors.torch.save(tensors, metadata)


def gzip_mutated(content: bytes, seed: int) -> bytes:
    """Change what a gzip file holds; its own checksum fits."""
    return gzip.compress(bytes_mutated(gzip.decompress(content), seed), compresslevel=1)


def png_mutated(content: bytes, seed: int) -> bytes:
    """Change the data of one chunk of a PNG image, or drop or repeat it; its checksum fits."""
    draw = random.Random(seed)
    chunks, at = [], 8
    while at < len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    index = draw.randrange(len(chunks))
    kind, data = chunks[index]
    if draw.random() < 0.2:
        chunks[index : index + 1] = draw.choice(([], [chunks[index]] * 2))
    elif kind == b"IDAT" and draw.random() < 0.5:
        chunks[index] = kind, zlib.compress(bytes_mutated(zlib.decompress(data), seed))
    else:
        chunks[index] = draw.choice((kind, b"tEXt", b"eXIf")), bytes_mutated(data or b"x", seed)
    written = [content[:8]]
    for kind, data in chunks:
        written += [struct.pack(">I", len(data)), kind, data]
        written.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(written)


def tried(
    valid: bytes,
    mutators: tuple[Mutator, ...],
    seeds: range,
    load: Callable[[bytes], object],
    expected: object = None,
) -> Counter[str]:
    """Load one mutation for each mutator and seed, and count what became of them.

    Args:
        valid: the bytes to mutate.
        mutators: functions of this module.
        seeds: of the mutations.
        load: reads a file with the given bytes, and returns its content.
        expected: the only content that may be loaded; None allows any.

    Raises:
        AssertionError: another content, or a refusal that is not one short sentence of proact.
    """
    counts: Counter[str] = Counter()
    for mutate in mutators:
        for seed in seeds:
            changed = mutate(valid, seed)
            where = f"{mutate.__name__}, seed {seed}"
            try:
                found = load(changed)
            except (ProactError, ValueError, TypeError) as error:
                problem, outcome = refusal_problem(error), "refused"
            else:
                is_allowed = expected is None or found == expected
                problem, outcome = "" if is_allowed else "another content", "loaded"
            assert not problem, f"{where}: {problem}"
            counts[outcome] += 1
    return counts


def refusal_problem(error: Exception) -> str:
    """Why an error is no sentence for a user; "" if it is one."""
    text = str(error)
    source = traceback.extract_tb(error.__traceback__)[-1].filename
    if not text.isprintable():
        return f"several lines or control characters: {text!r}"
    if len(text) >= 1_000:
        return f"{len(text)} characters: {text}"
    if Path(proact.__file__).parent not in Path(source).parents:
        return f"raised by {source}: {text}"
    return ""
