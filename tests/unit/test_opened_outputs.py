"""Are answers in objects that torch's pytree does not know checked like tensors in a dictionary?"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from proact import campaign
from proact.campaign.clean_results import _Undivided
from proact.campaign.counts import finite_rows
from proact.campaign.output_comparison import equal_bits, is_comparable, same_answers
from proact.faults import ActivationFlip, BitFlip
from proact.nn.outputs import opened, output_tensors

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(40) % 4
OPTIONS: dict[str, Any] = {"trials": 4, "images_per_trial": "all", "executor": 1}


@dataclass
class Answer:
    scores: Tensor


@dataclass(slots=True)
class Slotted:
    scores: Tensor
    name: str = "slotted"


class ModelOutput(OrderedDict[str, Any]):
    """Keeps each item as an attribute too, as the class of transformers does."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__.update(items)


class Rows(list[Any]):
    """A list that pytree takes as a leaf."""


WRAPPED: dict[str, Any] = {
    "namespace": lambda h: SimpleNamespace(scores=h),
    "dataclass": Answer,
    "slots": Slotted,
    "ModelOutput": lambda h: ModelOutput(scores=h),
    "nested": lambda h: {"a": (SimpleNamespace(b=Answer(h)), 3)},
    "list": lambda h: Rows([h]),
    "numpy": lambda h: h.numpy(),
}


def scores_of(output: Any) -> Tensor:
    (tensor,) = output_tensors(output)
    return tensor


ACCURACY = campaign.Metric(
    "acc",
    lambda out, targets, clean: (scores_of(out).argmax(1) == targets).float(),
    needs_clean=False,
)


@pytest.mark.parametrize("kind", WRAPPED)
def test_one_tensor_is_found_once_and_without_a_copy(kind: str) -> None:
    output = WRAPPED[kind](X)
    (found,) = output_tensors(output)
    assert found.data_ptr() == X.data_ptr()
    assert equal_bits(output, WRAPPED[kind](X.clone()))
    assert not equal_bits(output, WRAPPED[kind](X + 1))
    whole, part = WRAPPED[kind](X), WRAPPED[kind](X[[3, 1]])
    assert same_answers(whole, part, (3, 1), 40, 1e-6) is True
    assert same_answers(whole, WRAPPED[kind](X[[3, 2]]), (3, 1), 40, 1e-6) is False


def test_a_list_of_a_class_of_its_own_may_have_an_element_for_each_sample() -> None:
    whole, part = opened(Rows(map(Answer, X[:4]))), opened(Rows(map(Answer, X[[3, 1]])))
    assert same_answers(whole, part, (3, 1), 4, 1e-6) is True
    assert same_answers(whole, part, (3, 2), 4, 1e-6) is False
    assert same_answers([X], [X[[3, 1]]], (3, 1), 40, 1e-6) is True


def test_objects_that_refer_to_each_other_are_opened_once() -> None:
    first, second = SimpleNamespace(x=X), SimpleNamespace(y=Y)
    first.other, second.other = second, first
    assert [t.data_ptr() for t in output_tensors([first, second])] == [X.data_ptr(), Y.data_ptr()]


def test_modules_functions_and_classes_are_no_part_of_an_answer() -> None:
    held = SimpleNamespace(module=nn.Linear(2, 2), kind=Answer, call=lambda: X, shape=X.shape)
    assert output_tensors(held) == []
    assert opened(X) is X
    packed = pack_padded_sequence(X[:, None], torch.ones(40), batch_first=True)
    assert len(output_tensors(packed)) == 2


def test_numbers_and_texts_are_compared_where_there_is_no_tensor() -> None:
    assert equal_bits({"a": ["x", float("nan")]}, {"a": ["x", float("nan")]})
    assert not equal_bits(["x", 1.0], ["x", 2.0])
    assert equal_bits({"a": X, "seconds": 1.0}, {"a": X, "seconds": 2.0})
    assert not is_comparable([None, object()])
    assert same_answers(["a", "b", "c"], ["c", "a"], (2, 0), 3, 1e-6) is True
    assert same_answers(["a", "b", "c"], ["c", "b"], (2, 0), 3, 1e-6) is False
    assert same_answers([None, None, None], [None, None], (2, 0), 3, 1e-6) is None


class Net(nn.Module):
    def __init__(self, kind: str, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        self.kind, self.dropout = kind, dropout

    def forward(self, x: Tensor) -> Any:
        h = functional.dropout(self.body(x).relu(), self.dropout, training=True)
        return WRAPPED[self.kind](self.head(h).detach())


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_deterministic_model_runs(kind: str) -> None:
    result = campaign.run({"n": Net(kind)}, (X, Y), [BitFlip(3e-2)], metric=ACCURACY, **OPTIONS)
    assert not result.findings
    (row,) = result.to_pandas().to_dict("records")
    assert row["acc"] < row["clean"] or row["low"] < row["high"]


@pytest.mark.parametrize("fault", [BitFlip(1e-3), ActivationFlip(1e-6, where="body")])
@pytest.mark.parametrize("kind", WRAPPED)
def test_a_random_model_is_refused(kind: str, fault: Any) -> None:
    with pytest.raises(ValueError, match="different outputs for the same inputs, because .*draws"):
        campaign.run({"n": Net(kind, 0.5)}, (X, Y), [fault], metric=ACCURACY, **OPTIONS)


class Reused(nn.Module):
    """Returns one object, and writes its answer, which is random, into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.kept: Any = []

    def forward(self, x: Tensor) -> Any:
        out = self.head(x.clone()).detach() + torch.rand(())
        self.answer = getattr(self, "answer", None) or SimpleNamespace()
        self.answer.scores = out
        return self.answer


def test_an_object_that_is_returned_again_is_compared_by_its_values() -> None:
    with pytest.raises(ValueError, match="different outputs for the same inputs"):
        campaign.run({"n": Reused()}, (X, Y), [BitFlip(1e-3)], metric=ACCURACY, **OPTIONS)


class Mixing(Net):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(scores=self.head(self.body(x - x.mean(0))))


def test_an_answer_in_an_object_that_depends_on_its_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="depends on the other inputs of its batch"):
        campaign.run({"n": Mixing("")}, (X, Y), [BitFlip(1e-3)], metric=ACCURACY, **OPTIONS)


class Closed:
    """An object that shows neither attributes nor items."""

    __slots__ = ()


HIDDEN: dict[int, Tensor] = {}


class Opaque(Net):
    def forward(self, x: Tensor) -> Any:
        found = Closed()
        HIDDEN[0] = self.head(self.body(x)).detach()
        return found


def test_a_campaign_says_that_it_could_not_compare_answers() -> None:
    metric = campaign.Metric(
        "acc",
        lambda out, targets, clean: (HIDDEN[0].argmax(1) == targets).float(),
        needs_clean=False,
    )
    result = campaign.run({"n": Opaque("")}, (X, Y), [BitFlip(1e-3)], metric=metric, **OPTIONS)
    (first, *_) = result.spec.notes["checks"]["n"]["undecided"]
    assert "no tensor was found in its output: choose the part that counts with output=" in first


def test_the_only_tensor_of_an_object_is_read_as_logits() -> None:
    result = campaign.run({"n": Net("namespace")}, (X, Y), [BitFlip(1e-3)], **OPTIONS)
    plain = campaign.run({"n": Net("nested")}, (X, Y), [BitFlip(1e-3)], **OPTIONS)
    assert result.to_pandas()["accuracy"].equals(plain.to_pandas()["accuracy"])


class Half(Net):
    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.body(x))
        return scores, SimpleNamespace(scores=scores)


def test_clean_rows_in_an_object_are_refused_only_where_a_metric_reads_them() -> None:
    def run(metric: Any) -> Any:
        return campaign.run(
            {"n": Half("")}, X, [BitFlip(1e-2)], metric=metric, trials=4, executor=1
        )

    by_tensor = campaign.Metric(
        "same",
        lambda out, targets, clean: (out[0].argmax(1) == clean[0].argmax(1)).float(),
        needs_targets=False,
    )
    assert len(run(by_tensor).to_pandas()) == 1
    by_object = campaign.Metric(
        "same",
        lambda out, targets, clean: (out[1].scores.argmax(1) == clean[1].scores.argmax(1)).float(),
        needs_targets=False,
    )
    with pytest.raises(ValueError, match="object of type SimpleNamespace, whose tensors cannot"):
        run(by_object)


def test_values_that_are_not_finite_are_counted_in_objects() -> None:
    rows = torch.tensor([[1.0, 2.0], [np.nan, 0.0]])
    assert finite_rows(SimpleNamespace(scores=rows), 2)[:, 0].tolist() == [1.0, 0.0]


def test_the_stand_in_for_an_object_survives_pickle() -> None:
    again = pickle.loads(pickle.dumps(_Undivided("Answer")))
    with pytest.raises(ValueError, match="type Answer"):
        _ = again.scores


RARE = {
    "sparse": lambda h: h.to_sparse(),
    "complex": lambda h: torch.complex(h, h).conj(),
    "nested": lambda h: torch.nested.nested_tensor(list(h)),
    "float8_e5m2": lambda h: h.to(torch.float8_e5m2),
    "float8_e4m3fn": lambda h: h.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", RARE)
def test_tensors_of_every_layout_and_dtype_are_compared(kind: str) -> None:
    rare = RARE[kind]
    assert equal_bits(SimpleNamespace(a=rare(X)), SimpleNamespace(a=rare(X)))
    assert not equal_bits(SimpleNamespace(a=rare(X)), SimpleNamespace(a=rare(2 * X)))
    whole, near = {"a": rare(X)}, {"a": rare(X[[3, 1]] * (1 + 1e-6))}
    assert same_answers(whole, near, (3, 1), 40, 1e-3) is True
    assert same_answers(whole, {"a": rare(X[[3, 2]])}, (3, 1), 40, 1e-3) is False
    assert not finite_rows({"a": rare(X * torch.nan)}, 40).any()
