"""The worst case of each variant of a campaign: searched once, and kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from proact.campaign.bit_search import SEARCH_VERSION, BitSearch, SearchOptions
from proact.campaign.clean_results import CleanResults
from proact.campaign.options import CampaignOptions
from proact.campaign.tuning import Task
from proact.data import Data
from proact.data.dataset import SamplesOrData
from proact.faults import ExactFlips, Fault
from proact.faults.encode import selector_of
from proact.faults.fault import StoredFault
from proact.faults.selectors import Where, as_tuple
from proact.models.code_digest import ModelDigest
from proact.results.policy import Policy
from proact.results.store import Store
from proact.text import label


def random_flips(count: int, faults: Sequence[Fault]) -> ExactFlips:
    """``count`` random flips in the bits that at least one of the faults can hit.

    A `Replay` counts with all bits of its tensors, and only where no other fault hits stored
    parameters.

    Raises:
        ValueError: no fault hits stored parameters, or the faults flip different bits.
    """
    stored = [fault for fault in faults if isinstance(fault, StoredFault)]
    where = selector_of(faults)
    if where is None:
        raise ValueError("worst_flips needs a fault in stored parameters, such as BitFlip(1e-6)")
    if not stored:
        return ExactFlips(count, where=where)
    hit = dict.fromkeys((tensors, fault.bits) for fault in stored for tensors in _tensors_of(fault))
    if ("*", None) in hit:
        return ExactFlips(count)
    if len(choices := {bits for _, bits in hit}) > 1:
        raise ValueError(
            "worst_flips needs faults that flip the same bits, got "
            f"{', '.join(str(fault) for fault in stored)}: run a campaign for each choice of bits"
        )
    tensors = tuple(tensors for tensors, _ in hit)
    return ExactFlips(count, where="*" if "*" in tensors else tensors, bits=choices.pop())


def _tensors_of(fault: StoredFault) -> tuple[str | Where, ...]:
    """The selectors of the tensors that a fault can hit."""
    selectors = [where for where, _ in fault.rates]
    if selectors == ["*"]:
        return as_tuple(fault.where)
    if fault.where != "*" or any(rate == 0.0 for _, rate in fault.rates):
        raise ValueError(
            f"worst_flips takes rates by tensor if all are above 0 and where is '*', got {fault}"
        )
    return tuple(part for where in selectors for part in as_tuple(where))


def worst_cases(
    store: Store,
    task: Task,
    data: SamplesOrData,
    variants: Mapping[str, tuple[ModelDigest, CleanResults]],
    policy: Policy,
    options: CampaignOptions,
    stage: Callable[[str], None],
) -> dict[str, Mapping[str, Any]]:
    """The worst case of each variant, as `proact.results.worst_case` reads it.

    Flips are compared on the validation images, if the data has any, and their harm is measured on
    all images of the campaign.

    Args:
        store: keeps what is found.
        task: of the campaign.
        data: of the campaign, as it was given.
        variants: in the order of the task, with their results without faults.
        policy: how trials are run.
        options: of the campaign; without ``worst_flips``, nothing is searched.
        stage: called with what is being done.
    """
    flips, found = options.worst_flips, dict[str, Mapping[str, Any]]()
    if flips is None:
        return found
    measured = task.measurement.data
    samples = data.validation.to(measured.device) if isinstance(data, Data) else measured
    random = random_flips(flips, task.faults)
    everything = replace(policy, images=None)
    for number, (name, (digest, clean)) in enumerate(variants.items()):
        subject = (
            f"worst case beside {random.to_json()} of {digest.of_content} for {task.digest} on "
            f"{samples.digest} by search {SEARCH_VERSION}"
        )
        made = store.choice(subject)
        if made is None:
            stage(f"searching the worst {flips} flips of {label(name)}")
            injector = task.injectors[number]
            search = BitSearch(
                injector.model,
                samples,
                injector.encoding,
                random.where,
                random.bits,
                forward=task.measurement.forward,
                options=SearchOptions(seed=options.seed),
            )
            steps = [step.flips for step in search.steps(flips)]
            runner = task.pilot_runner(number, clean, everything, options.seed)
            # An error that the flips cause counts as the worst, as in the search.
            judged = replace(task.measurement, on_error="worst")
            runner = replace(runner, measurement=judged)
            values = [(len(s), runner.run(search.replay(s), 0).value) for s in steps]
            made = store.choose(
                subject,
                {
                    "random": str(random),
                    "searched": flips,
                    "values": values,
                    "fault": search.replay(steps[-1] if steps else ()).to_dict(),
                },
            )
        found[name] = made
    return found
