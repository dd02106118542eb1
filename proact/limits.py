"""The ranges of seeds, trials and streams, which fit the key and counter of the sampler."""

from __future__ import annotations

SEED_BITS = 63  # integers of torch operators are signed
STREAM_BITS = 48

#: Seeds are the integers in [0, SEEDS).
SEEDS = 1 << SEED_BITS
#: Trials are the integers in [0, TRIALS).
TRIALS = 1 << 32
#: Streams, which identify tensors by a hash of their names, are the integers in [0, STREAMS).
STREAMS = 1 << STREAM_BITS
