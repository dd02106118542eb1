"""The findings of a campaign's checks of its models, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proact.text import label

_MOST_NAMES = 5


def finding_sentences(notes: Mapping[str, Any]) -> list[str]:
    """Describe the findings in the notes of a run, which `proact.campaign.run` puts there.

    Args:
        notes: of the run; ``checks`` holds the findings by variant.

    Returns:
        One sentence for each kind of finding of each variant; empty if the checks found nothing.
    """
    sentences = []
    for name, found in notes.get("checks", {}).items():
        variant = label(name)
        if unread := found.get("unread"):
            sentences.append(
                f"No input reads {_listed(unread)} of {variant}, so faults there are harmless."
            )
        if unregistered := found.get("unregistered"):
            sentences.append(
                f"The forward pass of {variant} reads {_listed(unregistered)} outside its "
                "parameters and buffers, where no fault hits: register what is stored."
            )
        if written := found.get("written"):
            sentences.append(
                f"The forward pass of {variant} writes {_listed(written)}; the values are put back "
                "after each pass."
            )
        sentences += [f"Not checked: {reason}." for reason in found.get("undecided", ())]
    return sentences


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    shown = ", ".join(map(label, names[:_MOST_NAMES]))
    return f"{shown} and {more} more tensors" if more > 0 else shown
