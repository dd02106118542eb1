"""The options with which commands load a model and its data.

This module imports nothing heavy: help pages read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proact.campaign.options import CampaignOptions
from proact.config.config_errors import ConfigError
from proact.config.names import (
    USER_CODE,
    check_data_name,
    check_function_name,
    check_metric_name,
    check_model_name,
    is_user_code,
)
from proact.data.registry import names as data_names
from proact.models.registry import names as model_names
from proact.options import for_this_machine, integer, option, true_or_false, with_check
from proact.text import shortened

if TYPE_CHECKING:
    from proact.data import Data


@dataclass(frozen=True, kw_only=True)
class SetupOptions(CampaignOptions):
    """The model and the data by name: options of every command that loads them."""

    model: str = option(
        "small-cnn",
        f"Model, trained if needed: {', '.join(model_names())}; or {USER_CODE} (a trained "
        "torch.nn.Module, or a function that returns one).",
        str,
        metavar="NAME",
        names=tuple(model_names()),
        check=check_model_name,
    )
    data: str = option(
        "digits",
        f"Data set: {', '.join(data_names())}; or {USER_CODE} (a proact.data.Data, a pair of "
        "tensors (images, labels), a Dataset, or a function that returns one).",
        str,
        metavar="NAME",
        names=tuple(data_names()),
        check=check_data_name,
    )
    data_folder: str | None = option(
        None,
        "Folder with the data set's files; by default PROACT_DATA, the folders of Debian's "
        "packages and ~/.cache/proact are searched.",
        str,
        metavar="FOLDER",
    )
    metric: str = with_check(CampaignOptions, "metric", check_metric_name)
    forward: str | None = with_check(CampaignOptions, "forward", check_function_name)  # type: ignore[assignment]
    collate: str | None = with_check(CampaignOptions, "collate", check_function_name)  # type: ignore[assignment]
    loss: str | None = option(
        None,
        "Loss that trained methods minimise, for outputs other than classes: a function of "
        "(logits, targets), file.py:attribute or module:attribute.",
        str,
        metavar="NAME",
        default_text="the cross-entropy of classes",
        check=check_function_name,
    )
    validation_metric: str | None = option(
        None,
        "Metric that methods keep within their tolerance: a function of (logits, targets) with "
        "values in [0, 1] per sample, file.py:attribute or module:attribute.",
        str,
        metavar="NAME",
        default_text="top-1 accuracy",
        check=check_function_name,
    )
    download: bool = option(
        False,
        "Download missing files through torchvision into the folder.",
        bool,
        check=true_or_false,
    )
    image_size: int | None = option(
        None,
        "Height and width of the images; those of an imagefolder are scaled and cropped, others "
        "get a black border (pixels).",
        int,
        metavar="PIXELS",
        default_text="224 for an imagefolder, else the images' own",
        check=integer(1),
    )
    training_images: int | None = option(
        None,
        "The most training images of a named data set, the same share of every class (count).",
        int,
        metavar="COUNT",
        default_text="all",
        check=integer(1),
    )
    test_images: int | None = option(
        None,
        "The most test images of a named data set, the same share of every class (count).",
        int,
        metavar="COUNT",
        default_text="all",
        check=integer(1),
    )
    epochs: int | None = option(
        None,
        "Passes over the training images by which a named model is trained (count).",
        int,
        metavar="COUNT",
        default_text="10; 40 for fewer than 10,000 images",
        check=integer(1),
    )
    threads: int = option(
        1,
        "Threads of torch (count). Small models gain nothing from more threads. The last digits "
        "of trained weights depend on the number.",
        int,
        metavar="COUNT",
        check=for_this_machine,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        images = ("training_images", "test_images")
        options_of_data = ("data_folder", "download", "image_size", *images)
        for what, given, names in (
            ("data set", self.data, options_of_data),
            ("model", self.model, ("epochs",)),
        ):
            ignored = [name for name in names if getattr(self, name) not in (None, False)]
            if is_user_code(given) and ignored:
                raise ConfigError(f"expected a named {what}, got {shortened(given)}", (ignored[0],))

    def load_data(self) -> Data:
        """Load the named data set, or the data of the user's code.

        Data other than a `proact.data.Data` are divided into 65 % training, 15 % validation and
        20 % test samples.

        Raises:
            ValueError, TypeError, ProactError: the errors of `proact.data.load`; the user's code
                cannot be loaded.
        """
        from proact import data
        from proact.config.user_code import load_attribute, load_function
        from proact.data.dataset import parts_of

        if is_user_code(self.data):
            return parts_of(load_attribute(self.data), load_function("collate", self.collate))
        return data.load(
            self.data,
            self.data_folder,
            download=self.download,
            image_size=self.image_size,
            training_images=self.training_images,
            test_images=self.test_images,
        )
