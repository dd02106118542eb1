"""Are the digits, and data of one's own, what they say, every time?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from proact import data
from proact.data import Data, Split, as_data, as_evaluation, as_split, from_parts
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
    pairs = TensorDataset(images, labels)
    for given, words in (
        (DataLoader(pairs, shuffle=True), "DataLoader with shuffle=False"),
        (3, "map-style Dataset, a DataLoader or a proact.data.Data, got int"),
        ([({"image": object()}, 0)], "cannot be joined into tensors"),
        (TensorDataset(images[:0], labels[:0]), "at least one sample"),
        (
            [(images[0], 0), (images[1, :2], 1), (images[2], 1)],
            "one shape and dtype in a Dataset; item 0 has .3,.*give collate=",
        ),
        ((images, labels[:5]), "got 8 samples and 5 targets"),
        ((images[:0], labels[:0]), "at least one sample"),
        (({"a": images, "b": labels[:5]}, labels), "8 at .'a'., 5 at .'b'."),
        ((images / 0, labels), "NaN or infinite"),
        (("text", labels), "expected a tensor, or a tuple or mapping of tensors, got str"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            as_evaluation(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="beside a DataLoader"):
        as_evaluation(DataLoader(pairs), collate=default_collate)
    with pytest.raises(TypeError, match="map-style Dataset to collate, got Tensor"):
        as_evaluation(images, collate=default_collate)
    with pytest.raises(ValueError, match="batch 0 raised ZeroDivisionError"):
        as_evaluation(pairs, collate=lambda items: 1 / 0)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_samples_are_in_dense_tensors() -> None:
    images, labels = torch.randn(8, 3), torch.arange(8) % 2
    for given, words in (
        ((images.to_sparse(), labels), "inputs in dense tensors, got .*sparse_coo.*to_dense"),
        ((images.to_sparse_csr(), labels), "inputs in dense tensors, got .*sparse_csr.*to_dense"),
        ((images, labels.to_sparse()), "targets in dense tensors, got .*sparse_coo"),
        (({"a": images, "b": images.to("meta")}, labels), "tensors at .'b'., got a tensor on meta"),
        ((torch._efficientzerotensor((8, 3)), labels), "zeros that have no memory: pass a clone"),
    ):
        with pytest.raises(TypeError, match=words):
            as_evaluation(given)


def test_lazily_negated_and_conjugated_samples_are_the_numbers_that_they_stand_for() -> None:
    images = torch.randn(8, 3)
    waves = torch.complex(images, images)
    for lazy, plain in (
        (torch._neg_view(images), -images),
        (waves.conj(), torch.complex(images, -images)),
    ):
        assert Split(lazy).digest == Split(plain).digest
        assert Split(lazy).sample_digests() == Split(plain).sample_digests()


def test_class_labels_are_checked_where_they_are_read() -> None:
    images, labels = torch.randn(8, 3), torch.arange(8) % 2
    assert torch.equal(Split(images, labels).labels, labels)
    with pytest.raises(ValueError, match="labels of at least 0, got -1"):
        _ = Split(images, labels - 1).labels
    with pytest.raises(TypeError, match="class labels .n,. int64, got targets of shape .8, 1."):
        _ = Split(images, labels[:, None]).labels
    assert Split(images, labels - 1).class_labels is None
    assert Split(images).class_labels is None


def test_inputs_are_trees_of_tensors_or_arrays() -> None:
    ids, mask = torch.arange(24).reshape(8, 3), np.ones((8, 3), np.float32)
    labels = torch.arange(8) % 2
    items = [{"ids": ids[i], "mask": mask[i], "labels": int(labels[i])} for i in range(8)]
    forms = (
        ({"ids": ids, "mask": mask}, labels),
        {"ids": ids, "mask": mask, "labels": labels},
        items,
        DataLoader(items, 3),
    )
    digests = set()
    for form in forms:
        split = as_evaluation(form)  # type: ignore[arg-type]
        assert (len(split), split.units, split.batch_sizes) == (8, 8, None)
        part = split.take(torch.tensor([5, 2]))
        assert torch.equal(part.inputs["ids"], ids[[5, 2]])
        assert torch.equal(part.labels, labels[[5, 2]])
        assert [len(y) for _, y in split.batches(3)] == [3, 3, 2]  # type: ignore[arg-type]
        digests.add(split.digest)
    assert len(digests) == 1
    pair = as_evaluation(TensorDataset(ids, torch.from_numpy(mask), labels))
    assert isinstance(pair.inputs, tuple)
    assert len(pair.inputs) == 3
    assert pair.targets is None
    assert as_evaluation(TensorDataset(ids)).targets is None


def test_ragged_samples_stay_in_fixed_batches() -> None:
    texts = [list(range(1 + i % 7)) for i in range(40)]

    def padded(items: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, items))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in items])
        return ids, torch.tensor([len(text) % 2 for text in items])

    split = as_evaluation(DataLoader(texts, 3, collate_fn=padded))  # type: ignore[arg-type]
    assert split.batch_sizes == (3,) * 13 + (1,)
    assert (len(split), split.units) == (40, 14)
    taken = split.take(torch.tensor([13, 0]))
    assert taken.batch_sizes == (1, 3)
    shapes = [tuple(inputs.shape) for inputs, _ in taken.batches(64)]
    assert shapes == [(1, 1 + 39 % 7), (3, 3)]
    # Batches of one shape can be joined, so that single samples can be drawn.
    assert as_evaluation(texts, collate=padded).batch_sizes is None  # type: ignore[arg-type]
    ragged = [[1] * (1 + i // 8) for i in range(40)]
    assert as_evaluation(ragged, collate=padded).batch_sizes == (16, 16, 8)  # type: ignore[arg-type]
    whole = as_data(DataLoader(texts, 3, collate_fn=padded))  # type: ignore[arg-type]
    assert len(whole.train) + len(whole.validation) == 40


def test_samples_can_be_put_into_fixed_batches() -> None:
    images, labels = torch.randn(150, 3), torch.arange(150) % 2
    assert as_evaluation((images, labels), in_batches=True).batch_sizes == (64, 64, 22)
    loader = DataLoader(TensorDataset(images, labels), 40)
    split = as_evaluation(loader, in_batches=True)
    assert split.batch_sizes == (40, 40, 40, 30)
    assert torch.equal(split.take(torch.tensor([3])).inputs[0], images[120:])
    assert len(split.first(90)) == 80


def test_parts_of_ones_own() -> None:
    images, labels = torch.randn(100, 4), torch.arange(100) % 5
    own = from_parts((images, labels), TensorDataset(-images[:30], labels[:30]))
    assert [len(s) for s in (own.train, own.validation, own.test)] == [90, 10, 30]
    assert own.num_classes == 5
    whole = parts_of((images, labels))
    assert [len(s) for s in (whole.train, whole.validation, whole.test)] == [65, 15, 20]
    given = from_parts((images, labels), (-images[20:], labels[20:]), (-images[:20], labels[:20]))
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
    with pytest.raises(ValueError, match="6 validation samples of own are test samples too"):
        from_parts((images[:100], labels[:100]), test, (images[106:206], labels[106:206]))
    # A few twins happen in published sets.
    twin = (images[105:205], labels[105:205])
    assert len(from_parts((images[:100], labels[:100]), test, twin).validation) == 100


def test_samples_that_occur_often_can_train_protections() -> None:
    tokens = torch.cartesian_prod(*[torch.arange(3)] * 3).repeat(12, 1)
    samples = (tokens, tokens.sum(1) % 2)
    divided = as_data(samples)
    assert divided.train.sample_digests() & divided.validation.sample_digests()
    # A test split of its own would measure what was learnt by heart.
    with pytest.raises(ValueError, match="leave out copies of a sample"):
        parts_of(samples)


@pytest.mark.parametrize("in_tuple", [False, True])
def test_training_images_that_are_test_images_are_refused(in_tuple: bool) -> None:
    images, labels = torch.randn(400, 4), torch.arange(400) % 5

    def part(start: int, end: int) -> tuple[Any, Tensor]:
        chosen = images[start:end]
        return ((chosen, chosen[:, :1]) if in_tuple else chosen, labels[start:end])

    test, validation = part(200, 400), part(100, 200)
    with pytest.raises(ValueError, match="6 training samples of own are test samples too"):
        from_parts(part(106, 206), test, part(0, 106))
    assert len(from_parts(part(105, 205), test, part(0, 105)).train) == 100
    # One object as both is deliberate.
    split = as_split(test)
    assert len(Data("own", split, as_split(validation), split, 5).train) == 200
