"""Enter a campaign into its store: its task, variants and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proact.errors import ProactError
from proact.results.run_log import Variant, facts_digest
from proact.results.store import Store
from proact.text import label, short_repr


def check_name(
    store: Store, name: str | None, facts: Mapping[str, object], digests: Mapping[str, str]
) -> None:
    """Check that a campaign of this name in the store, if there is one, is the same campaign.

    Args:
        store: that may hold the campaign.
        name: of the campaign; None for a campaign without a name.
        facts: some or all facts of the task.
        digests: of the variants that are known so far, by name.

    Raises:
        ProactError: the store has the name with other facts or other models.
    """
    found = None if name is None else store.named(name)
    if found is None:
        return
    stored, known = found
    differing = [key for key in facts if stored.get(key) != facts[key]]
    if differing:
        listed = ", ".join(
            f"{key} is {stored.get(key)} in the store and {facts[key]} in this call"
            for key in differing
        )
        raise ProactError(
            f"the store {store.path} has a campaign {short_repr(name)} with other settings: "
            f"{listed}; choose another name for this campaign"
        )
    changed = [v for v, digest in digests.items() if known.get(v, digest) != digest]
    if changed:
        raise ProactError(
            f"the store {store.path} has a campaign {short_repr(name)} whose variants "
            f"{', '.join(map(label, changed))} are other models; choose another name for this "
            "campaign"
        )


def register_variants(
    store: Store,
    name: str | None,
    facts: Mapping[str, Any],
    variants: Sequence[Variant],
    counts: Sequence[tuple[int | None, int | None, float | None]],
    images: int,
) -> list[int]:
    """Enter the variants of a campaign into the store, or find those that are there.

    Args:
        store: receives them.
        name: of the campaign; None for a campaign without a name.
        facts: all facts of the task.
        variants: of the campaign.
        counts: (correct, top5, loss) of each variant without faults.
        images: the number of images behind these counts.

    Returns:
        The number of each variant in the store.
    """
    task = store.task(facts_digest(facts), facts)
    numbers = [
        store.variant(task, variant.name, variant.digest, images, variant.clean, of_variant)
        for variant, of_variant in zip(variants, counts, strict=True)
    ]
    if name is not None:
        for number in numbers:
            store.name(name, number)
    return numbers
