"""Are inputs, targets and outputs at the edge refused by name, or counted rightly?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.campaign import Metric
from proact.campaign.built_in_metrics import METRICS
from proact.data.reading import as_split
from proact.faults import BitFlip


def test_targets_with_a_fraction_are_kept() -> None:
    items: Any = [(torch.ones(3), torch.tensor(value)) for value in (0.7, 1.2)]
    targets = as_split(Items(items)).targets
    assert targets is not None
    assert targets.tolist() == pytest.approx([0.7, 1.2])
    with pytest.raises(TypeError, match="item 1"):
        as_split(Items([(torch.ones(3), 1), (torch.ones(3), 0.5)]))


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


def test_numbers_that_differ_between_batches_stay_in_their_batches() -> None:
    def collate(items: list[Any]) -> dict[str, Any]:
        return {"x": torch.tensor(items), "first": items[0]}

    split = as_split(Items(list(range(32))), collate=collate)
    assert split.batch_sizes == (16, 16)
    assert [inputs["first"] for inputs, _ in split.batches(64)] == [0, 16]


@pytest.mark.parametrize("without", [0, 16])
def test_batches_without_targets_among_others_are_refused(without: int) -> None:
    def collate(items: list[int]) -> tuple[Tensor, Tensor | None]:
        return torch.tensor(items), None if items[0] == without else torch.tensor(items)

    with pytest.raises(ValueError, match="targets in all batches"):
        as_split(Items(list(range(32))), collate=collate)


@pytest.mark.parametrize("name", ["token-accuracy", "token-loss"])
def test_tokens_that_cannot_count_are_refused(name: str) -> None:
    metric, logits = METRICS[name], torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="a token that counts in each sample"):
        metric.of(logits, torch.tensor([[1, 2, 3], [-100, -100, -100]]), None, 2)
    with pytest.raises(ValueError, match=r"in \[0, 4\)"):
        metric.of(logits, torch.tensor([[1, 2, 3], [1, 2, -1]]), None, 2)


def test_images_without_a_counted_pixel_leave_mean_iou_alone() -> None:
    logits = torch.zeros(2, 3, 2, 2)
    logits[:, 1] = 1.0
    targets = torch.tensor([1, 255]).repeat_interleave(4).view(2, 2, 2)
    metric = METRICS["mean-iou"]
    outputs, parts = list(logits.split(1)), list(targets.split(1))
    assert metric.of_batches(outputs, parts, outputs) == 1.0


def test_outputs_whose_rows_are_no_samples_are_refused() -> None:
    torch.manual_seed(0)

    def difference(output: Any, _: None, clean: Any) -> Tensor:
        change: Tensor = (output[0] - clean[0]).abs().mean((1, 2))
        return change

    metric = Metric("difference", difference, needs_targets=False, worst=1.0)
    with pytest.raises(ValueError, match="cannot be divided into samples"):
        campaign.run(
            {"m": nn.LSTM(6, 8, batch_first=True)},
            {"input": torch.rand(20, 5, 6)},
            [BitFlip(1e-3)],
            metric=metric,
            trials=2,
            images_per_trial=10,
            executor=1,
        )


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert_async((x.abs() < 1e4).all(), "too large")
        return x


def test_errors_behind_a_cut_count_as_those_of_the_whole_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), Refusing())
    data, fault = (torch.rand(40, 6), torch.arange(40) % 3), BitFlip(5e-3)
    options: dict[str, Any] = {"trials": 60, "images_per_trial": "all", "executor": 1}
    cached, whole = (
        campaign.run({"m": model}, data, [fault], prefix_cache=is_cached, **options)
        for is_cached in (True, False)
    )
    assert 0.0 < whole.cells[0].raised < 1.0
    assert [(row.value, row.raised) for row in cached.rows("m", fault)] == [
        (row.value, row.raised) for row in whole.rows("m", fault)
    ]


def test_batches_of_different_sizes_are_not_drawn() -> None:
    torch.manual_seed(0)
    data, model = (torch.rand(70, 6), torch.arange(70) % 3), nn.Linear(6, 3)
    options: dict[str, Any] = {"unit": "batch", "trials": 3, "executor": 1}
    with pytest.raises(ValueError, match="batches of different sizes, got 64"):
        campaign.run({"m": model}, data, [BitFlip(1e-2)], images_per_trial=64, **options)
    even = torch.utils.data.DataLoader(list(zip(*data, strict=True)), 10)  # type: ignore[arg-type]
    result = campaign.run({"m": model}, even, [BitFlip(1e-2)], images_per_trial=1, **options)
    assert result.images_per_trial == 10
    with pytest.raises(ValueError, match="policy: expected all images for fixed batches"):
        campaign.run({"m": model}, data, [BitFlip(1e-2)], policy=result.policy, **options)


def test_loaders_that_draw_are_refused() -> None:
    items = Items(list(range(8)))
    for sampler in (
        torch.utils.data.SubsetRandomSampler(range(8)),
        torch.utils.data.WeightedRandomSampler([1.0] * 8, 8),
    ):
        with pytest.raises(ValueError, match="shuffle=False"):
            as_split(torch.utils.data.DataLoader(items, 2, sampler=sampler))


def test_metrics_that_get_other_outputs_have_other_identities() -> None:
    def share(output: Any, targets: Any, clean: Any) -> Any:
        return output

    made = [Metric("m", share, of_trial=of_trial) for of_trial in (False, True)]
    made.append(Metric("m", share, reads_logits=True))
    assert len({metric.identity for metric in made}) == 3
