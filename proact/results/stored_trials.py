"""Reads the trials of cells from a store."""

from __future__ import annotations

import numpy as np

from proact.results.statistics import Prior, Trials
from proact.results.store import CellKey, Store


def trials_of(
    store: Store,
    key: CellKey,
    trials: int,
    prior: Prior,
    value: str = "value",
    clean: str = "clean",
) -> Trials:
    """The first ``trials`` trials of a cell; ``value`` and ``clean`` are SQL over the columns of a
    row."""
    condition = "flips > 0" if prior.is_clean_without_flips else "1"
    grouped = store.grouped(key, [value, clean], trials, condition)
    columns = np.array(grouped, dtype=np.float64).reshape(-1, 3).T
    unflipped = 0
    if prior.is_clean_without_flips:
        (unflipped,) = store.totals(key, "coalesce(sum(flips = 0), 0)", trials)
    failed = len(store.failures(key, trials))
    return Trials(columns[0], columns[1], columns[2], unflipped, failed)


def paired_trials_of(
    store: Store, keys: tuple[CellKey, CellKey], trials: int, priors: tuple[Prior, Prior]
) -> Trials:
    """The differences of two cells in those of their first ``trials`` trials that both have."""
    columns = np.array(store.paired(*keys, trials), dtype=np.float64).reshape(-1, 4)
    is_clean = all(prior.is_clean_without_flips for prior in priors)
    # Trials in which neither variant was hit differ as the clean ones do, on all images.
    flipped = columns[(columns[:, 2] > 0) | (not is_clean)]
    measured = int(columns[:, 3].sum())
    unflipped = measured - int(flipped[:, 3].sum())
    values, clean, _, counts = flipped.T
    return Trials(values, clean, counts, unflipped, trials - measured)
