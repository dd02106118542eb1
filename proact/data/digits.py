"""Load scikit-learn's digits, which need no download."""

from __future__ import annotations

import torch

from proact.data.dataset import TEST_AND_VALIDATION, Data, stratified_parts
from proact.data.split import Split
from proact.errors import ProactError


def load_digits() -> Data:
    """Load 1,797 handwritten digits of 1x8x8 pixels.

    The source is UCI ("Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak,
    1998). Every class is split into 20 % test, 15 % validation and 65 % train. Pixels are
    normalised by the mean and standard deviation of the training images.

    Raises:
        ProactError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ProactError(
            "the digits need scikit-learn, which is not installed: pip install 'proact[data]'"
        ) from None
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)
    whole = Split(images, torch.tensor(labels, dtype=torch.int64))
    test, validation, train = stratified_parts(whole.labels, TEST_AND_VALIDATION, seed=0)
    mean, deviation = images[train].mean(), images[train].std()

    def normalised(indices: torch.Tensor) -> Split:
        return Split((images[indices] - mean) / deviation, whole.labels[indices])

    return Data(
        "digits",
        normalised(train),
        normalised(validation),
        normalised(test),
        10,
        tuple("0123456789"),
        (float(mean) / 16,),
        (float(deviation) / 16,),
    )
