"""Summarise an experiment: tables for people, and a document for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

import proact
from proact.config.runner import Outcome
from proact.report.cost_tables import cost_table
from proact.report.tables import gains_table, strata_table
from proact.report.units import MetricUnits
from proact.text import label


def tables(outcome: Outcome) -> list[Table]:
    """Make tables of accuracy, gains over the baseline, costs and sweeps."""
    experiment = outcome.experiment
    found = [outcome.result.table()]
    if len(experiment.variants) > 1:
        found.append(gains_table(outcome.result, experiment.baseline))
    # Latency differs between runs; only the report and the document state it.
    costs = {name: {**asdict(cost), "latency": None} for name, cost in outcome.costs.items()}
    found.append(cost_table(costs, experiment.encoding_name, MetricUnits.of(outcome.result.spec)))
    for (name, kind), sweep in outcome.sweeps.items():
        title = f"Loss of {label(name)} by {kind}, {label(experiment.sweep_fault)} in one at a time"
        found.append(strata_table(sweep, title))
    return found


def conditions(outcome: Outcome) -> str:
    """Return one line with the conditions of the measurement."""
    result, experiment = outcome.result, outcome.experiment
    return (
        f"{result.images_per_trial or outcome.images} test images per trial; parameters stored as "
        f"{label(experiment.encoding_name)}; "
        f"proact {proact.__version__}, seed {experiment.seed}"
    )


def worst_cases(outcome: Outcome) -> list[str]:
    """Return a line for each variant whose worst case was searched."""
    units = MetricUnits.of(outcome.result.spec)
    lines = []
    for name, worst in outcome.result.worst_cases.items():
        left = f"{units.value(outcome.result.clean[name])}{units.unit} without faults"
        for flips, value in worst.values.items():
            left += f", {units.value(value)}{units.unit} after {flips}"
        lines.append(f"{label(name)}, flips that a search found to hurt most: {left}")
    return lines


def failed_trials(outcome: Outcome) -> str | None:
    """Return a sentence about the failed trials of the campaign and its sweeps, if any."""
    failures = [
        (variant, fault, trial, reason)
        for result in (outcome.result, *outcome.sweeps.values())
        for (variant, fault), failed in result.failures().items()
        for trial, reason in failed
    ]
    if not failures:
        return None
    variant, fault, trial, reason = failures[0]
    count = "1 trial" if len(failures) == 1 else f"{len(failures):,} trials"
    return (
        f"{count} failed, which widens the intervals; the first is trial {trial} of {variant} "
        f"under {fault}: {reason}; --retry-failed repeats failed trials"
    )


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as values that JSON can hold; columns are those of ``to_pandas``."""
    return {
        "proact": proact.__version__,
        "folder": str(outcome.folder),
        "store": str(outcome.store),
        "experiment_file": str(outcome.file),
        "experiment": outcome.experiment.to_plain(),
        "images": outcome.images,
        "images_per_trial": outcome.result.images_per_trial,
        "clean": dict(outcome.result.clean),
        "findings": outcome.result.findings,
        "worst_cases": {name: asdict(w) for name, w in outcome.result.worst_cases.items()},
        "failed": failed_trials(outcome),
        "cells": outcome.result.to_pandas().to_dict("records"),
        "gains": [
            {
                "variant": each.variant,
                "baseline": outcome.experiment.baseline,
                "fault": each.fault,
                "ber": each.ber,
                "gain": each.gain.estimate,
                "low": each.gain.low,
                "high": each.gain.high,
            }
            for each in outcome.gains()
        ],
        "costs": {name: asdict(cost) for name, cost in outcome.costs.items()},
        "sweeps": [
            {"variant": name, "kind": kind, "strata": sweep.to_pandas().to_dict("records")}
            for (name, kind), sweep in outcome.sweeps.items()
        ],
    }
