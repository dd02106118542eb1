"""The specifications of runs and the sessions that worked on them, stored beside the rows.

A run is one call of `proact.campaign.run`, `per_layer` or `per_bit`. The same call again is the
same run and finds its rows; each time that a process works on it is a session. Tables and reports
need nothing but the rows and this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from proact.errors import ProactError
from proact.limits import TRIALS
from proact.results.cells import CellSpec
from proact.results.spec_check import check_spec
from proact.results.statistics import (
    Prior,
    SequentialRule,
    StoppingRule,
    StratifiedRule,
    confidence_at_stop,
)
from proact.results.store import Store
from proact.results.stored_json import made_from, parsed_object, stored
from proact.text import short_repr, storable

#: A campaign compares variants; a sweep divides the fault space of one variant.
RunKind = Literal["campaign", "layer", "bit"]


@stored
@dataclass(frozen=True)
class MemoryUse:
    """The count of the numbers of one kind that a model stores, the bits that they take, and the
    names of the words that they are stored as; none are known of older versions' stores."""

    numbers: int
    bits: int
    words: tuple[str, ...] = ()


@stored
@dataclass(frozen=True)
class Variant:
    """A model in a campaign.

    Attributes:
        name: in tables.
        model_class: the name of the model's class.
        clean: the metric without faults, in the encoding, on all images.
        digest: SHA-256 of the model's content, in hexadecimal.
        memory: what it stores, by kind (`proact.nn.tensor_inventory.KINDS`).
    """

    name: str
    model_class: str
    clean: float
    digest: str
    memory: Mapping[str, MemoryUse]


@stored
@dataclass(frozen=True)
class RunSpec:
    """The specification of a run, and the knowledge before its first trial.

    Attributes:
        kind: a campaign, or a sweep over layers or bits.
        name: of the campaign; None where it has none.
        margin: half the width of the interval at which a cell stops (in a sweep: the whole).
        relative_margin: the same as a share of the cell's loss, in (0, 1), in place of ``margin``.
        difference_margin: half the width of the interval at which a difference to the first variant
            has enough pairs; None if differences use the trials that cells need for themselves.
        trials: of a cell (in a sweep: of all cells); with a margin, the most.
        confidence: two-sided confidence level of the intervals.
        rule_confidence: that of the intervals whose width ends cells; None: ``confidence``. It
            differs if a result is read at another confidence.
        metric, lowest, highest, is_better_higher: the averaged quantity, the range of its values,
            and whether its higher end is the better one.
        encoding: the stored form of the parameters.
        seed: of faults and images.
        images: number of evaluation images.
        images_per_trial: number of images on which a trial is judged; None: all of them.
        facts: the task's identity.
        variants, cells: in the order in which they were given.
        stopped: by cell, the number of trials that its result uses; empty while the run is not
            finished.
        paired: by variant and fault, the numbers of trials of the strata of the difference to the
            first variant (`proact.results.difference`), where it needed more than its cells; empty
            while the run is not finished.
        notes: the caller's own values, in terms of JSON (see `proact.campaign.RunOptions`), and
            what the campaign adds: ``checks`` has the findings of the checks before the first trial
            by variant.
    """

    kind: RunKind
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
    cells: tuple[CellSpec, ...]
    stopped: tuple[int, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    relative_margin: float | None = None
    difference_margin: float | None = None
    paired: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    rule_confidence: float | None = None

    @property
    def rule(self) -> SequentialRule | None:
        """The rule that stops cells without strata; a sweep stops as a whole."""
        if self.relative_margin is not None:
            return self.stratified_rule
        if self.kind != "campaign" or self.margin is None:
            return None
        return StoppingRule(self.margin, self._of_rules, self.trials or TRIALS - 1)

    @property
    def stratified_rule(self) -> StratifiedRule:
        """The rule that stops a cell with strata, or at a share of its loss."""
        most = self.trials or TRIALS - 1
        if self.relative_margin is not None:
            return StratifiedRule(self.relative_margin, self._of_rules, most, is_relative=True)
        assert self.margin is not None
        return StratifiedRule(self.margin, self._of_rules, most)

    @property
    def difference_rule(self) -> StratifiedRule | None:
        """The rule that says whether a difference has enough pairs."""
        if self.difference_margin is None:
            return None
        return StratifiedRule(self.difference_margin, self._of_rules, self.trials or TRIALS - 1)

    def confidence_of_cells(self, is_finished: bool) -> float:
        """The level of intervals: a little higher in cells that a rule has stopped."""
        rule = self.rule if is_finished else None
        return self.confidence if rule is None else confidence_at_stop(self.confidence)

    @property
    def _of_rules(self) -> float:
        return self.confidence if self.rule_confidence is None else self.rule_confidence

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    def prior(self, cell: CellSpec) -> Prior:
        """The prior knowledge of a cell."""
        return Prior(
            self.variant(cell.variant).clean,
            cell.unflipped,
            self.lowest,
            self.highest,
            cell.is_clean_without_flips,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the specification, in hexadecimal."""
        goal: list[Any] = [self.kind, self.name, self.margin, self.trials, self.confidence]
        if self.relative_margin is not None:
            goal.append(self.relative_margin)
        if self.kind == "campaign" and self.difference_margin != self.margin:
            goal.append({"difference": self.difference_margin})
        cells = [[*cell.key, cell.part] for cell in self.cells]
        return hashlib.sha256(json.dumps([goal, cells]).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> RunSpec:
        """Reads the output of `to_json` of this version of proact or an older one.

        Raises:
            ProactError: a key or a value does not fit; the message names it.
        """
        values = parsed_object(text, _PLACE)
        _replace_older_keys(values)
        spec = made_from(RunSpec, values, _PLACE)
        check_spec(spec)
        return spec


#: The description of a run in errors.
_PLACE = "the description of a run in the store"


def _replace_older_keys(values: dict[str, Any]) -> None:
    """Makes a description of an older version one of this version."""
    if isinstance(values.get("encoding"), list) and values["encoding"]:
        values["encoding"] = values["encoding"][0]  # it was followed by its revision
    cells, variants = (
        [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        for listed in (values.get("cells"), values.get("variants"))
    )
    # They kept the number of trials with each cell.
    kept = [described.pop("trials", None) for described in cells]
    if values.get("stopped") is None:
        values["stopped"] = kept if None not in kept else []
    for described in variants:
        if "network" in described:
            described["model_class"] = described.pop("network")


def facts_digest(facts: Mapping[str, Any]) -> str:
    """The digest that identifies a task: SHA-256 in hexadecimal."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class WorkSession:
    """One time that a process worked on a run.

    Attributes:
        started, ended: UTC, to the second; ``ended`` and the next two are None where the process
            was killed, or is still at work.
        outcome: ``"finished"``, ``"interrupted"``, or the error that ended it.
        rows: number of trials that were stored.
        environment: versions, machine and threads.
    """

    started: str
    ended: str | None
    outcome: str | None
    rows: int | None
    environment: Mapping[str, Any]


class RunLog:
    """Writes one session of a run into the store.

    Attributes:
        number: the run's number there.
    """

    def __init__(self, store: Store, run: RunSpec, environment: Mapping[str, Any]) -> None:
        self._store, self._run = store, run
        with store.transaction():
            for (before,) in store.execute(
                "SELECT description FROM run WHERE digest = ?", (run.digest,)
            ):
                # A run that was finished before stays so while it is repeated.
                known = RunSpec.from_json(before)
                run = replace(run, stopped=known.stopped, paired=known.paired)
            store.execute(
                "INSERT INTO run (digest, description) VALUES (?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET description = excluded.description",
                (run.digest, run.to_json()),
            )
        self.number = store.number("SELECT id FROM run WHERE digest = ?", run.digest)
        store.execute(
            "INSERT INTO session (run, started, environment) VALUES (?, ?, ?)",
            (self.number, _now(), json.dumps(dict(environment))),
        )
        self._session = store.number("SELECT last_insert_rowid()")

    def close(
        self,
        outcome: str,
        rows: int,
        stopped: Sequence[int] | None = None,
        paired: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    ) -> None:
        """Records how the session ended; with the number of trials of each cell, the run is
        finished. ``paired`` is that of `RunSpec`."""
        with self._store.transaction():
            if stopped is not None:
                finished = replace(self._run, stopped=tuple(stopped), paired=paired or {})
                self._store.execute(
                    "UPDATE run SET description = ? WHERE id = ?",
                    (finished.to_json(), self.number),
                )
            self._store.execute(
                "UPDATE session SET ended = ?, outcome = ?, rows = ? WHERE id = ?",
                (_now(), storable(outcome), rows, self._session),
            )


def logged_runs(store: Store) -> list[tuple[int, RunSpec, list[WorkSession]]]:
    """The runs of a store with their numbers and sessions; the one last worked on comes last."""
    if not store.number("SELECT count(*) FROM sqlite_master WHERE name = 'run'"):
        return []  # of an older version
    sessions: dict[int, list[WorkSession]] = {}
    for run, started, ended, outcome, rows, environment in store.execute(
        "SELECT run, started, ended, outcome, rows, environment FROM session ORDER BY id"
    ):
        machine = parsed_object(environment, "the environment of a session in the store")
        session = WorkSession(started, ended, outcome, rows, machine)
        sessions[run] = [*sessions.pop(run, []), session]
    described = dict(store.execute("SELECT id, description FROM run"))
    if unknown := sessions.keys() - described.keys():
        raise ProactError(
            f"the store {store.path} has sessions of the run {short_repr(min(unknown))}, which it "
            "does not list: use an unchanged copy of the store"
        )
    return [(run, RunSpec.from_json(described[run]), mine) for run, mine in sessions.items()]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
