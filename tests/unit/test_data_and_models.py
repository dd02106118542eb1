"""Are data sets and networks what they say, every time?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from proact import ProactError, data, models
from proact.data import Data, Split, as_data, as_evaluation


def test_digits_are_all_there_once_and_stratified(digits: Data) -> None:
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1169, 269, 359]
    shares = [torch.bincount(split.labels, minlength=10) / len(split) for split in splits]
    for share in shares:
        torch.testing.assert_close(share, torch.full((10,), 0.1), atol=0.01, rtol=0)
    pixels, _ = load_digits(return_X_y=True)
    assert digits.train.images.mean().abs() < 1e-6
    assert digits.train.images.std() == pytest.approx(1.0, abs=1e-5)
    # Undo the normalisation: black is 0 and white is 16 in the original.
    low = digits.train.images.min()
    scale = 16 / (digits.train.images.max() - low)
    restored = torch.cat([(split.images - low) * scale for split in splits]).round()
    ours = sorted(tuple(row) for row in restored.flatten(1).int().tolist())
    assert ours == sorted(tuple(int(p) for p in row) for row in pixels)


def test_digits_are_the_same_every_time(digits: Data) -> None:
    again = data.load("digits")
    assert again.train.digest == digits.train.digest
    assert digits.test.digest != digits.train.digest


def test_pairs_and_datasets_are_data_too() -> None:
    images, labels = torch.randn(50, 4), torch.arange(50) % 5
    pair = as_evaluation((images, labels))
    dataset = as_evaluation(TensorDataset(images, labels))
    assert pair.digest == dataset.digest == Split(images, labels).digest
    whole = as_data((images, labels))
    assert (len(whole.train), len(whole.validation)) == (40, 10)
    assert torch.equal(torch.bincount(whole.validation.labels), torch.full((5,), 2))


def test_training_is_seeded_and_leaves_the_global_generator_alone(digits: Data) -> None:
    few = Data("few", digits.train.take(torch.arange(100)), digits.validation, digits.test, 10)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = models.trained("small-cnn", few, seed=1)
    assert torch.equal(torch.rand(3), expected)
    second, other = (
        models.trained("small-cnn", few, seed=1),
        models.trained("small-cnn", few, seed=2),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_the_small_network_learns_the_digits(trained_cnn: nn.Module, digits: Data) -> None:
    assert sum(p.numel() for p in trained_cnn.parameters()) == 8378
    assert models.accuracy(trained_cnn, digits.test) > 0.96


def test_a_cached_network_is_read_back_and_a_broken_one_named(digits: Data, tmp_path: Path) -> None:
    few = Data("few", digits.train.take(torch.arange(100)), digits.validation, digits.test, 10)
    first = models.trained("small-cnn", few, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    epochs: list[int] = []
    second = models.trained(
        "small-cnn", few, cache=tmp_path, progress=lambda e, n: epochs.append(e)
    )
    assert not epochs
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    file.write_bytes(b"broken")
    with pytest.raises(ProactError, match="delete it"):
        models.trained("small-cnn", few, cache=tmp_path)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="digits; got 'mnits'"):
        data.load("mnits")
    with pytest.raises(ValueError, match="small-cnn; got 'resnet'"):
        models.create("resnet")
