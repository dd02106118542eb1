"""The job of a campaign on a Dask cluster."""

from __future__ import annotations

import warnings
from typing import Any

from proact.campaign import workers as worker_functions
from proact.errors import ProactError

#: The campaign ends after Dask gave the job up so often.
_MOST_LOST = 10


class DaskJob:
    """Sends a pickled job to Dask's workers, and observes the connection to the scheduler.

    The job is the result of a Dask task: Dask computes it again if its worker dies. Scattered data
    would be lost, and tasks that depend on it would wait forever.

    Attributes:
        job: Dask's future of the pickled job.
    """

    def __init__(self, client: Any, pickled_job: bytes) -> None:
        self._client, self._pickled_job = client, pickled_job
        self._connection = client.scheduler_comm
        #: The keys of jobs that Dask gave up.
        self._lost: set[str] = set()
        self.job = self._submitted()

    def check(self) -> None:
        """Check that the client has the connection that it had at the start.

        Dask cancels all futures when the connection breaks, and does not finish those whose results
        are under way at this moment.

        Raises:
            ProactError: the connection is lost, even if the client has another one by now.
        """
        if self._client.status != "running" or self._client.scheduler_comm is not self._connection:
            raise ProactError(
                "the connection to the Dask scheduler is lost: repeat the call with a client of a "
                "scheduler that runs, or with executor=1; it continues from the trials in the store"
            )

    def was_lost(self, error: BaseException | None) -> bool:
        """Whether a unit failed only because Dask gave the job up; if so, the job is sent again.

        Workers that should receive the job may die of units. Dask counts such a death against the
        job too, and after a few of them the errors of all units that need the job name its key.

        Raises:
            ProactError: Dask gave the job up too often.
        """
        key = getattr(error, "task", None)
        if key == self.job.key:
            self._lost.add(key)
            if len(self._lost) >= _MOST_LOST:
                raise ProactError(
                    f"Dask gave up sending the models to workers {_MOST_LOST} times ({error}): "
                    "give the workers more memory"
                )
            self.job = self._submitted()
        return key in self._lost

    def _submitted(self) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._client.submit(worker_functions.itself, self._pickled_job, pure=False)
