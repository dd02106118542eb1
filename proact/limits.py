"""The ranges of the numbers that name a fault pattern; the sampler's counter has room for these."""

from __future__ import annotations

#: Seeds lie in [0, SEEDS).
SEEDS = 1 << 63
#: Trials are numbered in [0, TRIALS).
TRIALS = 1 << 32
#: Streams, which name tensors, lie in [0, STREAMS).
STREAMS = 1 << 48
