"""One run of a protection method: progress messages, and a checkpoint to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from proact.errors import ProactError
from proact.models import checkpoint
from proact.nn import Site
from proact.protect.clips import threshold_problem
from proact.protect.distributed import DistributedContext
from proact.protect.tolerance import Verdict
from proact.text import short_repr

_HEADER = "proact.protecting"
_MOST_BYTES = 4 << 30


class MethodRun:
    """One run of a method that may go from site to site, and can then be resumed.

    The thresholds of finished sites are written to ``resume`` after each site. A run that finds
    this file continues with the next site and ends in the same thresholds. The file is deleted
    when the ``with`` block ends without an exception.

    Args:
        report: called with a line of text, in rank 0 only.
        identity: a digest of everything that determines the thresholds.
        resume: a safetensors file for the thresholds of finished sites, or None.

    Attributes:
        position: the current site out of all sites and the estimated time left, as text.
        maxima: a little above the largest activation of each site in the profile.

    Raises:
        ProactError: ``resume`` belongs to another run, is no checkpoint, or cannot be written.
    """

    def __init__(
        self, report: Callable[[str], None], identity: str = "", resume: Path | None = None
    ) -> None:
        self._report, self._identity, self._resume = report, identity, resume
        self._context = DistributedContext.current()
        self._finished: dict[str, Tensor] = {}
        self.position = ""
        self.maxima: dict[Site, Tensor] = {}
        if resume is not None:
            # All processes must skip the same sites.
            self._finished = self._context.broadcast(lambda: _loaded(resume, identity))
            self._write()  # a path that cannot be written fails now, not after an hour

    def report(self, line: str) -> None:
        """Reports a line of progress."""
        if self._context.is_first:
            self._report(line)

    def with_finished(self, thresholds: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
        """``thresholds``, replaced at the sites that an earlier run has finished.

        Raises:
            ProactError: a finished threshold that no run on these sites writes.
        """
        names = {site.name: site for site in thresholds}
        for name, value in self._finished.items():
            site = names.get(name)
            problem = "belongs to no site" if site is None else threshold_problem(site, value)
            if site is not None and not problem and value.shape != thresholds[site].shape:
                problem = f"has the shape {tuple(value.shape)}"
            if problem:
                raise ProactError(
                    f"{self._resume} is damaged: the threshold {short_repr(name)} {problem}: "
                    "delete it, or name another file"
                )
        return {site: self._finished.get(site.name, value) for site, value in thresholds.items()}

    def unfinished(self, sites: Iterable[Site], seconds: Mapping[Site, float]) -> Iterator[Site]:
        """Yields the sites that are not finished, in their order.

        Args:
            sites: all sites, in the order in which the method treats them.
            seconds: the cost of each site relative to the others, to estimate the time left.
        """
        order = list(sites)
        todo = [site for site in order if site.name not in self._finished]
        begun, spent = time.monotonic(), 0.0
        for site in todo:
            self.position = f"site {order.index(site) + 1} of {len(order)}"
            if spent > 0:
                left = sum(seconds[s] for s in todo[todo.index(site) :])
                self.position += f", {_duration((time.monotonic() - begun) * left / spent)} left"
            yield site
            spent += seconds[site]

    def report_candidate(
        self, site: Site, candidate: str, verdict: Verdict, result: str = ""
    ) -> None:
        """Reports the verdict on a candidate threshold, and a further result."""
        said = result or ("accepted" if verdict.accepted else "loses too much")
        self.report(
            f"{site.name}: {candidate}: {verdict.kept:.4f} on {verdict.samples} validation "
            f"samples, {said} ({self.position})"
        )

    def finish(self, site: Site, threshold: Tensor) -> None:
        """Records the final threshold of a site."""
        self._finished[site.name] = threshold.detach().clone()
        self._write()

    def _write(self) -> None:
        resume = self._resume
        if resume is not None:
            header = {_HEADER: json.dumps({"identity": self._identity})}
            self._context.broadcast(lambda: checkpoint.write(resume, self._finished, header))

    def __enter__(self) -> MethodRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._resume is not None and self._context.is_first:
            self._resume.unlink(missing_ok=True)


def _loaded(path: Path, identity: str) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    header, thresholds = checkpoint.read(path, _HEADER, "unfinished protection", _MOST_BYTES)
    if header.get("identity") != identity:
        raise ProactError(
            f"{path} belongs to another protection run (its model, data, method or options "
            "differ): delete it, or name another file"
        )
    return thresholds


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
