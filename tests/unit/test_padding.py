"""Do images of named data sets get a black border of the right width?"""

from __future__ import annotations

import pytest
import torch

from proact import ProactError, data


def test_black_surrounds_the_images_of_every_split() -> None:
    plain, found = data.load("digits"), data.load("digits", image_size=11)
    for name in ("train", "validation", "test"):
        before, after = getattr(plain, name), getattr(found, name)
        assert after.images.shape == (len(before), 1, 11, 11)
        assert torch.equal(after.images[..., 1:9, 1:9], before.images)
        assert torch.equal(after.labels, before.labels)
        border = after.images.clone()
        border[..., 1:9, 1:9] = float("nan")
        border = border[~border.isnan()]
        assert border.numel() == len(before) * (11 * 11 - 8 * 8)
        # A pixel of 0 before the normalisation.
        assert torch.allclose(
            border * plain.deviation[0] + plain.mean[0], torch.zeros(()), atol=1e-6
        )
    assert found.digest != plain.digest


def test_images_of_the_right_size_stay() -> None:
    assert data.load("digits", image_size=8).digest == data.load("digits").digest


def test_images_beyond_the_memory_are_refused_before_they_are_made() -> None:
    with pytest.raises(ProactError, match=r"at 1000000x1000000 pixels need .* GiB, and this"):
        data.load("digits", image_size=1_000_000)


@pytest.mark.parametrize("size", [7, 0, -1, 8.5, True, "8"])
def test_sizes_that_do_not_fit_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match=r"image_size: expected at least .*, got "):
        data.load("digits", image_size=size)  # type: ignore[arg-type]
