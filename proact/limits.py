"""The ranges of seeds, trials and streams, and the most processes and threads of a machine.

The ranges fit the key and counter of the sampler.
"""

from __future__ import annotations

import os

SEED_BITS = 63  # integers of torch operators are signed
STREAM_BITS = 48

#: Seeds are the integers in [0, SEEDS).
SEEDS = 1 << SEED_BITS
#: Trials are the integers in [0, TRIALS).
TRIALS = 1 << 32
#: Streams, which identify tensors by a hash of their names, are the integers in [0, STREAMS).
STREAMS = 1 << STREAM_BITS

_PER_CORE, _AT_LEAST = 4, 16


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_workers() -> int:
    """The most worker processes, and the most threads of torch, that proact accepts here."""
    return max(_PER_CORE * cores(), _AT_LEAST)
