"""The interface of worker pools, and the errors of their futures when a worker dies."""

from __future__ import annotations

import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future

from proact.campaign.jobs import UnitResult, WorkUnit

#: While no unit ends, the pool is checked at this interval, in seconds.
_CHECK_SECONDS = 1.0


class NotStartedError(Exception):
    """The worker died before it started the unit."""


class LostWorkerError(Exception):
    """The worker died while it ran the unit.

    Args:
        reason: how it died.
        trial: the trial that was running, or `proact.campaign.trial_groups.SEVERAL_TRIALS`; None if
            the worker was between two trials.
    """

    def __init__(self, reason: str, trial: int | None) -> None:
        super().__init__(reason)
        self.trial = trial


class WorkerPool(ABC):
    """Runs the units of one job until it is closed.

    An error inside a unit is part of the unit's result. The death of a worker is the exception of
    the future, and only the unit that it was running is lost.
    """

    #: The number of units that may be submitted at a time.
    queue_depth: int = 1
    #: The number of units that run at the same time.
    workers: int = 1

    @abstractmethod
    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        """Submit a unit."""

    def wait(self, futures: Collection[Future[UnitResult]]) -> set[Future[UnitResult]]:
        """Wait until at least one of the futures is done, and return those that are done.

        Raises:
            ProactError: the pool cannot finish its units.
        """
        while True:
            done, _ = concurrent.futures.wait(futures, _CHECK_SECONDS, FIRST_COMPLETED)
            if done:
                return done
            self.check()

    def check(self) -> None:  # noqa: B027
        """Check that the pool can finish its units.

        Raises:
            ProactError: it cannot, for example because its connection is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the resources of the pool; units that still run are abandoned."""
