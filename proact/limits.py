"""The ranges of the numbers that name a fault pattern: the sampler's counter has room for these."""

from __future__ import annotations

SEED_BITS = 63  # integers of torch operators are signed
STREAM_BITS = 48

#: Seeds are the integers in [0, SEEDS).
SEEDS = 1 << SEED_BITS
#: Trials are the integers in [0, TRIALS).
TRIALS = 1 << 32
#: Streams, which stand for the names of tensors, are the integers in [0, STREAMS).
STREAMS = 1 << STREAM_BITS
