"""One run of a method: who is told how far it is, and the file from which it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from proact.errors import ProactError
from proact.models import checkpoint
from proact.nn import Site
from proact.protect.distributed import Ranks

_HEADER = "proact.protecting"


class Session:
    """Sites that are done are kept, in ``resume`` too where it is given: a run that was interrupted
    goes on behind its last whole site, and ends in the same thresholds.

    Args:
        report: called with a line of text.
        identity: digest of all that determines the thresholds.
        resume: a safetensors file of the finished sites' thresholds; deleted at the block's end.

    Raises:
        ProactError: ``resume`` holds something else, or cannot be written.
    """

    def __init__(
        self, report: Callable[[str], None], identity: str = "", resume: Path | None = None
    ) -> None:
        self._report, self._identity, self._resume = report, identity, resume
        self._ranks = Ranks.current()
        self._finished: dict[str, Tensor] = {}
        if resume is not None:
            # What one process takes as done has to be done for all.
            self._finished = self._ranks.from_first(lambda: _loaded(resume, identity))
            self._write()  # a file that cannot be written is found now and not after an hour
        #: Where the run is, and how long it may still take.
        self.place = ""

    def tell(self, line: str) -> None:
        if self._ranks.writes:
            self._report(line)

    def resumed(self, bounds: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
        """``bounds``, and the thresholds of sites that an earlier run has finished."""
        return {site: self._finished.get(site.name, bound) for site, bound in bounds.items()}

    def unfinished(self, sites: Iterable[Site], seconds: Mapping[Site, float]) -> Iterator[Site]:
        """The sites that are still to be done, in their order; ``seconds``: what each costs,
        relative to the others, for the estimate of the time left."""
        order = list(sites)
        todo = [site for site in order if site.name not in self._finished]
        begun, spent = time.monotonic(), 0.0
        for site in todo:
            self.place = f"site {order.index(site) + 1} of {len(order)}"
            if spent > 0:
                left = sum(seconds[s] for s in todo[todo.index(site) :])
                self.place += f", {_duration((time.monotonic() - begun) * left / spent)} left"
            yield site
            spent += seconds[site]

    def tried(self, site: Site, what: str, kept: float, verdict: str) -> None:
        """Reports what one candidate keeps of the validation accuracy."""
        self.tell(f"{site.name}: {what} keeps {kept:.4f} of validation, {verdict} ({self.place})")

    def finish(self, site: Site, threshold: Tensor) -> None:
        self._finished[site.name] = threshold.detach().clone()
        self._write()

    def _write(self) -> None:
        resume = self._resume
        if resume is not None:
            header = {_HEADER: json.dumps({"identity": self._identity})}
            self._ranks.from_first(lambda: checkpoint.write(resume, self._finished, header))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Where the method has come to its end, nothing is left to resume."""
        if kind is None and self._resume is not None and self._ranks.writes:
            self._resume.unlink(missing_ok=True)


def _loaded(path: Path, identity: str) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    header, thresholds = checkpoint.read(path, _HEADER, "unfinished protection")
    if header["identity"] != identity:
        raise ProactError(
            f"{path} belongs to another protection (network, data, method or options differ): "
            "delete it, or name another file"
        )
    return thresholds


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
