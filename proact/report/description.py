"""Sentences that describe the models of a campaign and how their numbers are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proact.report.analysis import Analysis
from proact.results.run_log import RunSpec
from proact.text import label

_MOST_OF_RECIPE = 1000

#: The papers of the methods. Methods of proact's own have none.
_PAPERS = {
    "ranger": "arXiv 2003.13874",
    "ft-clipact": "arXiv 1912.00941",
    "fitact": "arXiv 2112.13544",
    "proact": "arXiv 2406.06313",
    "resilience-aware-proact": "after arXiv 2406.06313",
}


def models_described(analysis: Analysis) -> str:
    """The model, the data, and each variant with the options of its methods, as far as the store
    has them: the command line writes them, and `proact.campaign.run` knows the classes alone."""
    recipes = experiment_of(analysis.run).get("variants")
    if isinstance(recipes, Mapping) and set(analysis.variants) <= set(recipes):
        described = [
            f"{label(name)} ({label(recipe_described(recipes[name]), _MOST_OF_RECIPE)})"
            for name in analysis.variants
        ]
    else:
        described = [
            f"{label(each.name)} ({label(each.model_class)})" for each in analysis.run.variants
        ]
    variants = f"The variants were {'; '.join(described)}."
    subject = model_and_data(analysis.run)
    return f"The model was {subject}. {variants}" if subject else variants


def model_and_data(run: RunSpec) -> str:
    """In labels, ``resnet20 on fashion-mnist``; empty where the store does not name the model."""
    noted = experiment_of(run)
    model = noted.get("model", noted.get("network"))  # the key of older versions
    if model is None:
        return ""
    return f"{label(model)} on {label(noted['data'])}" if "data" in noted else label(model)


def experiment_of(run: RunSpec) -> Mapping[str, Any]:
    """The options that the command line notes with a run; empty for `proact.campaign.run`."""
    noted = run.notes.get("experiment")
    return noted if isinstance(noted, Mapping) else {}


def recipe_described(given: Any) -> str:
    """``proact, arXiv 2406.06313, epochs=2``; several methods are joined by ``then``."""
    if isinstance(given, Mapping):
        method = str(given.get("method", ""))
        options = [
            f"{name}={_option(value)}"
            for name, value in given.items()
            if name != "method" and value not in (None, [], {})
        ]
        paper = [_PAPERS[method]] if method in _PAPERS else []
        return ", ".join([method, *paper, *options])
    if isinstance(given, Sequence) and not isinstance(given, str):
        return ", then ".join(map(recipe_described, given))
    text = str(given)
    return f"{text}, {_PAPERS[text]}" if text in _PAPERS else text


def _option(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_option, value))
    return str(value)


def storage_described(analysis: Analysis) -> str:
    """``The encoding stores weights as int8; biases and thresholds as float32.`` Empty where all
    words are alike, and for stores of older versions of proact, which did not keep their kinds."""
    words: dict[str, list[str]] = {}
    for variant in analysis.run.variants:
        for kind, memory in variant.memory.items():
            known = words.setdefault(kind, [])
            known += [word for word in memory.words if word not in known]
    if len({word for known in words.values() for word in known}) < 2:
        return ""
    kinds: dict[str, list[str]] = {}
    for kind, known in words.items():
        # Selectors by name can give tensors of one kind different words.
        kinds.setdefault(" or ".join(known), []).append(_PLURALS.get(kind, kind))
    parts = [f"{listed(mine)} as {known}" for known, mine in kinds.items() if known]
    return f"The encoding stores {'; '.join(parts)}."


#: The kinds of `proact.nn.tensor_inventory.KINDS` in a sentence.
_PLURALS = {
    "weight": "weights",
    "bias": "biases",
    "normalisation": "parameters of normalisations",
    "statistics": "running statistics",
    "threshold": "thresholds",
    "bound": "bounds",
    "scale": "scales",
    "other": "other tensors",
}


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
