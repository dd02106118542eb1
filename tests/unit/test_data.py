"""Are the digits, and data of one's own, what they say, every time?"""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from proact import data
from proact.data import Data, Split, as_data, as_evaluation, from_parts
from proact.data.dataset import parts_of


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


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="imagefolder; got 'mnits'; did you mean 'mnist'."
    ) as error:
        data.load("mnits")
    assert all(name in str(error.value) for name in data.names())


def test_what_no_data_is_is_a_sentence() -> None:
    images, labels = torch.randn(8, 3), torch.arange(8) % 2
    for given, words in (
        (DataLoader(TensorDataset(images, labels)), "map-style Dataset or .* got DataLoader"),
        (TensorDataset(images), "item 0 is .Tensor"),
        ([({"image": 1}, 0)], "item 0 is .dict, int"),
        (TensorDataset(images[:0], labels[:0]), "at least one image"),
        (
            [(images[0], 0), (images[1, :2], 1), (images[2], 1)],
            "one shape and dtype in a Dataset; item 0 has .3,.",
        ),
        ((images.int(), labels), "floating-point images"),
        ((images, labels - 1), "expected labels of at least 0, got -1"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            as_evaluation(given)  # type: ignore[arg-type]


def test_parts_of_ones_own() -> None:
    images, labels = torch.randn(100, 4), torch.arange(100) % 5
    own = from_parts((images, labels), TensorDataset(-images[:30], labels[:30]))
    assert [len(s) for s in (own.train, own.validation, own.test)] == [90, 10, 30]
    assert own.num_classes == 5
    whole = parts_of((images, labels))
    assert [len(s) for s in (whole.train, whole.validation, whole.test)] == [65, 15, 20]
    given = from_parts((images, labels), (images[20:], labels[20:]), (images[:20], labels[:20]))
    assert len(given.train) == 100
    with pytest.raises(ValueError, match="images of one shape"):
        from_parts((images, labels), (images[:, :2], labels))


def test_the_digest_follows_every_part() -> None:
    images, labels = torch.randn(100, 4), torch.arange(100) % 5
    own = from_parts((images, labels), (-images, labels))
    for part in range(2):
        parts = [(images, labels), (-images, labels)]
        parts[part] = (parts[part][0], labels.flip(0))
        assert from_parts(*parts).digest != own.digest
    assert from_parts((images, labels), (-images, labels)).digest == own.digest


def test_validation_images_that_are_test_images_are_refused() -> None:
    images, labels = torch.randn(400, 4), torch.arange(400) % 5
    test = (images[200:], labels[200:])
    with pytest.raises(ValueError, match="6 validation images of own are test images too"):
        from_parts((images[:100], labels[:100]), test, (images[106:206], labels[106:206]))
    # A few twins happen in published sets.
    twin = (images[105:205], labels[105:205])
    assert len(from_parts((images[:100], labels[:100]), test, twin).validation) == 100
