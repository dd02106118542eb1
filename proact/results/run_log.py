"""What was asked for, as the store keeps it: with the rows, all that tables and reports need.

A run is one call of `proact.campaign.run`, `per_layer` or `per_bit`. The same call again is the
same run, whose rows are found; each time that somebody works on it is a session.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from proact.results.cells import Source
from proact.results.statistics import Known, StoppingRule
from proact.results.store import CellKey, Store

Kind = Literal["campaign", "layer", "bit"]

_MOST_TRIALS = (1 << 32) - 1


@dataclass(frozen=True)
class Memory:
    """How many numbers of a kind a network stores, and how many bits they take."""

    numbers: int
    bits: int


@dataclass(frozen=True)
class Variant:
    """A network of a run.

    Attributes:
        name: in tables.
        network: the name of its class.
        clean: the metric without faults, in the encoding, on all images.
        digest: of its content, SHA-256 in hexadecimal.
        memory: what it stores, by kind (`proact.nn.tensor_inventory.KINDS`).
    """

    name: str
    network: str
    clean: float
    digest: str
    memory: Mapping[str, Memory]


@dataclass(frozen=True)
class RunCell:
    """One variant under one fault, as it was asked for.

    Attributes:
        variant, fault: their names.
        key: their numbers in the store.
        family: the fault but for its rate: cells of one family make a line over BER. Of a sweep:
            the fault whose space the parts share out.
        ber: the fault's expected bit error rate, per exposed bit.
        bits: how many bits it can hit; None for faults in activations.
        unflipped: the probability that a trial flips nothing; None where nobody knows it.
        is_clean_without_flips: see `proact.results.statistics.Known`.
        part, share: of a sweep: the layer or bit, and its share of the exposed bits.
        field: of a sweep over bits: the field of the encoding that the bit is in.
        trials: the result is about the trials below this number; None while nobody knows it.
    """

    variant: str
    fault: str
    family: str
    key: CellKey
    ber: float
    bits: int | None
    unflipped: float | None
    is_clean_without_flips: bool = True
    part: str | None = None
    share: float | None = None
    field: str | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Run:
    """What was asked for, and what is known without a trial.

    Attributes:
        kind: a campaign, or a sweep over layers or bits.
        name: of the campaign; None where it has none.
        margin: half the width of the interval at which a cell (of a sweep: the whole) stops.
        trials: a cell's (of a sweep: all cells'); with a margin, the most.
        confidence: of the intervals, two-sided.
        metric, lowest, highest, is_better_higher: what is averaged, the range of its values, and
            which end of it is the good one.
        encoding: the stored form of the parameters.
        seed: of faults and images.
        images: how many evaluation images there are.
        images_per_trial: on how many of them a trial is judged; None: on all.
        facts: the task's identity.
        variants, cells: in the order they were given.
        notes: the caller's own, in terms of JSON; see `proact.campaign.run`.
    """

    kind: Kind
    name: str | None
    margin: float | None
    trials: int | None
    confidence: float
    metric: str
    lowest: float
    highest: float
    is_better_higher: bool
    encoding: str
    seed: int
    images: int
    images_per_trial: int | None
    facts: Mapping[str, Any]
    variants: tuple[Variant, ...]
    cells: tuple[RunCell, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rule(self) -> StoppingRule | None:
        """By which each cell was stopped; sweeps stop as a whole."""
        if self.kind != "campaign" or self.margin is None:
            return None
        return StoppingRule(self.margin, self.confidence, self.trials or _MOST_TRIALS)

    @property
    def is_finished(self) -> bool:
        return all(cell.trials is not None for cell in self.cells)

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    def known(self, cell: RunCell) -> Known:
        """What is known of a cell without a trial."""
        return Known(
            self.variant(cell.variant).clean,
            cell.unflipped,
            self.lowest,
            self.highest,
            cell.is_clean_without_flips,
        )

    def source(self, cell: RunCell, trials: int, is_finished: bool = True) -> Source:
        """The rows of a cell, the first ``trials``; one that is not finished was not stopped."""
        return Source(
            cell.variant,
            cell.fault,
            cell.ber,
            cell.key,
            self.known(cell),
            trials,
            self.rule if is_finished else None,
            self.is_better_higher,
            is_finished,
        )

    def finished(self, trials: Mapping[CellKey, int] | Mapping[CellKey, int | None]) -> Run:
        """The same, with the number of trials that each cell stopped at; None: it has not yet."""
        cells = tuple(replace(cell, trials=trials[cell.key]) for cell in self.cells)
        return replace(self, cells=cells)

    @property
    def digest(self) -> str:
        """Of what was asked for: SHA-256 in hexadecimal."""
        asked = [self.kind, self.name, self.margin, self.trials, self.confidence]
        cells = [[*cell.key, cell.part] for cell in self.cells]
        return hashlib.sha256(json.dumps([asked, cells]).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Run:
        """What `to_json` wrote, by this version of proact or an older one."""
        values = json.loads(text)
        variants, cells = values.pop("variants"), values.pop("cells")
        return Run(
            **values,
            variants=tuple(_variant(described) for described in variants),
            cells=tuple(
                RunCell(**{**described, "key": CellKey(*described["key"])}) for described in cells
            ),
        )


def facts_digest(facts: Mapping[str, Any]) -> str:
    """What a task is known by: SHA-256 in hexadecimal."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def _variant(described: dict[str, Any]) -> Variant:
    memory = {kind: Memory(**amount) for kind, amount in described.pop("memory").items()}
    return Variant(**described, memory=memory)


@dataclass(frozen=True)
class Session:
    """One time that somebody worked on a run.

    Attributes:
        started, ended: UTC, to the second; ``ended`` and the next two are None where the process
            was killed, or is still at work.
        outcome: ``"finished"``, ``"interrupted"``, or the error that ended it.
        rows: how many trials were stored.
        environment: versions, machine and threads.
    """

    started: str
    ended: str | None
    outcome: str | None
    rows: int | None
    environment: Mapping[str, Any]


class Log:
    """Writes one session of a run into the store.

    Attributes:
        run: its number there.
    """

    def __init__(self, store: Store, run: Run, environment: Mapping[str, Any]) -> None:
        self._store, self._asked = store, run
        with store.transaction():
            for (before,) in store.execute(
                "SELECT description FROM run WHERE digest = ?", (run.digest,)
            ):
                # What is asked for once more was finished as far as it was.
                run = run.finished({cell.key: cell.trials for cell in Run.from_json(before).cells})
            store.execute(
                "INSERT INTO run (digest, description) VALUES (?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET description = excluded.description",
                (run.digest, run.to_json()),
            )
        self.run = store.number("SELECT id FROM run WHERE digest = ?", run.digest)
        store.execute(
            "INSERT INTO session (run, started, environment) VALUES (?, ?, ?)",
            (self.run, _now(), json.dumps(dict(environment))),
        )
        self._session = store.number("SELECT last_insert_rowid()")

    def close(self, outcome: str, rows: int, trials: Mapping[CellKey, int] | None = None) -> None:
        """Notes how it ended; with the number of trials of each cell, the run is finished."""
        with self._store.transaction():
            if trials is not None:
                self._store.execute(
                    "UPDATE run SET description = ? WHERE id = ?",
                    (self._asked.finished(trials).to_json(), self.run),
                )
            self._store.execute(
                "UPDATE session SET ended = ?, outcome = ?, rows = ? WHERE id = ?",
                (_now(), outcome, rows, self._session),
            )


def logged(store: Store) -> list[tuple[int, Run, list[Session]]]:
    """The runs of a store by number, those last worked on at the end, each with its sessions."""
    if not store.number("SELECT count(*) FROM sqlite_master WHERE name = 'run'"):
        return []  # of an older version
    sessions: dict[int, list[Session]] = {}
    for run, started, ended, outcome, rows, environment in store.execute(
        "SELECT run, started, ended, outcome, rows, environment FROM session ORDER BY id"
    ):
        session = Session(started, ended, outcome, rows, json.loads(environment))
        # What is worked on again goes to the end.
        sessions[run] = [*sessions.pop(run, []), session]
    described = dict(store.execute("SELECT id, description FROM run"))
    return [(run, Run.from_json(described[run]), mine) for run, mine in sessions.items()]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
