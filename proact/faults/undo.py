"""Undoing, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def undo_all(undos: Iterable[Callable[[], object]]) -> None:
    """Calls each of them, which may be called twice; Ctrl-C waits until the last one is done."""
    interrupt: KeyboardInterrupt | None = None
    for undo in undos:
        is_done = False
        while not is_done:
            try:
                undo()
                is_done = True
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt
