"""Does a limit of training or test images keep the share of every class and the other splits?"""

from __future__ import annotations

import pytest
import torch

from proact import data
from proact.data import Split
from proact.data.dataset import stratified_subset


def test_a_subset_has_the_same_share_of_every_class() -> None:
    whole, found = data.load("digits"), data.load("digits", training_images=300)
    counts = torch.bincount(found.train.labels)
    share = 300 / len(whole.train)
    assert torch.all((counts - share * torch.bincount(whole.train.labels)).abs() < 1)
    assert len(found.train) == 300
    assert found.train.sample_digests() < whole.train.sample_digests()
    assert found.validation.digest == whole.validation.digest
    assert found.test.digest == whole.test.digest
    assert found.digest != whole.digest


def test_test_images_are_limited_likewise() -> None:
    whole, found = data.load("digits"), data.load("digits", test_images=100)
    counts = torch.bincount(found.test.labels)
    share = 100 / len(whole.test)
    assert torch.all((counts - share * torch.bincount(whole.test.labels)).abs() < 1)
    assert found.test.sample_digests() < whole.test.sample_digests()
    assert found.train.digest == whole.train.digest
    assert found.validation.digest == whole.validation.digest
    with pytest.raises(ValueError, match="test_images: expected enough for every class of digits"):
        data.load("digits", test_images=7)
    with pytest.raises(ValueError, match="test_images: expected at least 1 image, got 0"):
        data.load("digits", test_images=0)


def test_the_subset_is_the_same_in_every_call() -> None:
    one, other = (data.load("digits", training_images=50) for _ in range(2))
    assert one.digest == other.digest


def test_a_limit_above_the_number_of_images_changes_nothing() -> None:
    assert data.load("digits", training_images=10**6).digest == data.load("digits").digest


def test_a_class_without_an_image_is_refused() -> None:
    words = "enough for every class of digits, got 7, which leaves 3 of its classes"
    with pytest.raises(ValueError, match=words):
        data.load("digits", training_images=7)
    assert len(torch.bincount(data.load("digits", training_images=12).train.labels)) == 10


def test_samples_without_classes_are_chosen_at_random() -> None:
    split = Split(torch.arange(100.0).view(100, 1))
    chosen = stratified_subset(split, 30)
    assert len(chosen.unique()) == 30
    assert not torch.equal(chosen.sort().values, torch.arange(30))


@pytest.mark.parametrize("count", [0, -1, 8.5, True, "8"])
def test_other_numbers_are_refused(count: object) -> None:
    with pytest.raises(ValueError, match="training_images: expected at least 1 image, got "):
        data.load("digits", training_images=count)  # type: ignore[arg-type]
