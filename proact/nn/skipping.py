"""Modules whose activations the user leaves alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from proact.text import short_repr


def checked_skip(skip: Sequence[str]) -> tuple[str, ...]:
    """Return the names and patterns in ``skip`` as a tuple.

    Raises:
        TypeError: not a sequence of texts.
    """
    is_listed = isinstance(skip, Iterable) and not isinstance(skip, str)
    if not is_listed or not all(isinstance(name, str) and name for name in skip):
        raise TypeError(
            "skip: expected a tuple of module names or patterns, such as ('head', 'layer4.*'), "
            f"got {short_repr(skip)}"
        )
    return tuple(skip)


class Skip:
    """The modules of a model that names and patterns choose, with all modules inside them.

    Args:
        model: the model.
        patterns: qualified names of modules or of functions in plain attributes, such as
            ``layer4.0``, or shell patterns, such as ``*.attention``.

    Raises:
        ValueError: a pattern that fits nothing in the model.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str]) -> None:
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._patterns = checked_skip(patterns)
        every = [
            name
            for module, own in self._names.items()
            for name in (*own, *(f"{o}.{a}".lstrip(".") for o in own for a in vars(module)))
        ]
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in every if name):
                raise ValueError(
                    f"skip: {type(model).__name__} has no module that {short_repr(pattern)} fits"
                )

    def covers(self, module: nn.Module, attribute: str | None = None) -> bool:
        """Whether a module, or the function in one of its attributes, is left alone."""
        own = self._names.get(module, [])
        if attribute is not None:
            own = [f"{name}.{attribute}".lstrip(".") for name in own]
        return any(self._fits(name) for name in own)

    def _fits(self, name: str) -> bool:
        parts = name.split(".")
        ancestors = [".".join(parts[: count + 1]) for count in range(len(parts))]
        return any(fnmatchcase(a, pattern) for a in ancestors for pattern in self._patterns)
