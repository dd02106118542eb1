"""Reads the trials of cells from a store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proact.results.statistics import Prior, Trials
from proact.results.statistics.interval import Numbers
from proact.results.store import CellKey, Store


def trials_of(store: Store, key: CellKey, trials: int, prior: Prior) -> Trials:
    """The first ``trials`` trials of a cell."""
    return trials_and_columns_of(store, key, trials, prior, [])[0]


def trials_and_columns_of(
    store: Store, key: CellKey, trials: int, prior: Prior, columns: Sequence[str]
) -> tuple[Trials, list[Numbers]]:
    """The first ``trials`` trials of a cell, and (k,) further columns of them: SQL over the columns
    of a row."""
    condition = "flips > 0" if prior.is_clean_without_flips else "1"
    names = ["value", "clean", *columns]
    grouped = store.grouped(key, names, trials, condition)
    found = np.array(grouped, dtype=np.float64).reshape(-1, len(names) + 1).T
    unflipped = 0
    if prior.is_clean_without_flips:
        (unflipped,) = store.totals(key, "coalesce(sum(flips = 0), 0)", trials)
    failed = len(store.failures(key, trials))
    return Trials(found[0], found[1], found[-1], unflipped, failed), list(found[2:-1])


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
