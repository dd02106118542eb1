"""Many trials on one model: checks and plans are made once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from proact.encodings.scaled_words import StoredScale
from proact.faults.activations import ActivationFlip, layers_of
from proact.faults.fault import Fault, StoredFault
from proact.faults.injection import Injection, checked_pattern, existing_plan, targets_of
from proact.faults.injection_plan import InjectionPlan, cache_plan
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.record import Record
from proact.nn.model_kinds import checked_module


class Injector:
    """Injects many trials into one model; checks and plans are made once.

    Args:
        model: a model whose parameters are already rounded to the encoding (see `encode`).
        encoding: the stored form of its parameters.
        is_private: promises that no other code writes to, moves or replaces the parameters. They
            are then not checked again in each trial.

    Raises:
        ValueError, TypeError: the model has no parameters, or one that is not rounded to the
            encoding.
    """

    def __init__(
        self,
        model: nn.Module,
        encoding: EncodingLike = "float32",
        *,
        is_private: bool = False,
    ) -> None:
        self.model = checked_module(model)
        self.encoding = checked_encoding(encoding)
        self._own: InjectionPlan | None = None
        ready = self._current_plan()
        if is_private:
            self._own = ready

    def _current_plan(self) -> InjectionPlan:
        """The plan for the values that the model stores now."""
        if self._own is not None:
            return self._own
        plan = existing_plan(self.model, self.encoding)
        if plan is None:
            plan = InjectionPlan(self.model, self.encoding)
            for stored, rounded in plan.unrounded():
                raise ValueError(
                    f"{stored.name} is not rounded to {self.encoding.name} (error up to "
                    f"{(stored.tensor - rounded).abs().max():.3g}): encode the model first"
                )
            cache_plan(self.model, plan)
        return plan

    @property
    def device(self) -> torch.device:
        """The device of the model's first stored tensor."""
        return self._current_plan().stored[0].tensor.device

    @property
    def scales(self) -> list[StoredScale]:
        """The scales and zero points in the fault space; trials flip bits of their memory."""
        return self._current_plan().scales

    def exposed_bits(self, fault: Fault) -> int:
        """The number of stored bits that ``fault`` can hit.

        For a `Replay` these are all bits of the tensors that it names.

        Raises:
            ValueError, TypeError: as `FaultSpace`, and for a fault that does not fit the model.
        """
        return sum(self.bits_of_parts(fault))

    def bits_of_parts(self, fault: Fault) -> list[int]:
        """The numbers of stored bits in the parts of the fault space that ``fault`` distinguishes.

        Raises:
            ValueError, TypeError: as `exposed_bits`.
        """
        return [target.bits for target in targets_of(self._current_plan(), fault)]

    def exposed_tensors(self, fault: Fault) -> frozenset[str]:
        """The names of the stored tensors whose numbers ``fault`` can change.

        Raises:
            ValueError, TypeError: as `exposed_bits`.
        """
        targets = targets_of(self._current_plan(), fault)
        return frozenset(stored.name for target in targets for stored in target.stored)

    def expected_ber(self, fault: Fault) -> float:
        """The expected share of the exposed bits that ``fault`` hits, in [0, 1].

        For `StuckAt` this is the expected share of stuck bits.

        Raises:
            ValueError, TypeError: as `exposed_bits`.
        """
        if isinstance(fault, ActivationFlip):
            layers_of(self.model, fault)
        return fault.expected_ber(self.bits_of_parts(fault))

    def probability_of_none(self, fault: Fault) -> float | None:
        """The probability that a trial of ``fault`` flips no bit; None if it is not known.

        Raises:
            ValueError, TypeError: as `exposed_bits`.
        """
        return fault.probability_of_none(self.bits_of_parts(fault))

    def number_of_flips(self, fault: StoredFault, seed: int, trial: int) -> int:
        """The number of bits that a trial flips, without injecting it.

        Args:
            fault: a random fault in stored tensors, which a `Replay` and an `ActivationFlip` are
                not.
            seed, trial: as for `inject`.

        Raises:
            TypeError: another fault.
            ValueError: as `exposed_bits`, or a seed or trial out of range.
        """
        if not isinstance(fault, StoredFault):
            raise TypeError(
                "fault: expected a random fault in stored tensors, such as BitFlip(1e-5), got "
                f"{type(fault).__name__}"
            )
        return self._current_plan().number_of_flips(fault, seed, trial)

    def trial(
        self,
        fault: Fault | Sequence[Fault],
        seed: int = 0,
        trial: int = 0,
        *,
        allow_training: bool = False,
        log_activations: bool = False,
    ) -> AbstractContextManager[Record]:
        """Like `inject`, for this model and encoding."""
        faults, seed, trial = checked_pattern(fault, seed, trial)
        return Injection(
            self.model,
            lambda: (self._current_plan(), True),
            faults,
            seed,
            trial,
            allow_training,
            log_activations,
            may_move=self._own is None,
        )
