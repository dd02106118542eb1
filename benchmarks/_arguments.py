"""Arguments that several benchmarks take, how a benchmark ends, and the files that it writes.

Every script imports this module before the rest of proact: an instruction set in PROACT_ISA that
this machine lacks is then refused in one sentence, as bad arguments are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from proact import ProactError, build_info
from proact.cli.errors import BAD_INPUT, INTERRUPTED, exit_code
from proact.cli.options import flag_of
from proact.config.experiment import Experiment
from proact.options import integer, options_of

try:
    from proact import _native
except ProactError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(BAD_INPUT)

if TYPE_CHECKING:
    from torch import nn

    from proact.data import Data
    from proact.models import Recipe


class Parser(argparse.ArgumentParser):
    """A parser that explains a script by its docstring and refuses arguments in one sentence."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")

    def add_campaign_options(self, **defaults: Any) -> None:
        """Adds options of ``proact campaign``, by name, with defaults of their own."""
        for name, default in defaults.items():
            declared = options_of(Experiment)[name]
            self.add_argument(
                flag_of(name, declared),
                type=accepted(declared.plain_type, declared.check),
                default=default,
                metavar=declared.metavar,
                help=_unpunctuated(declared.help),
            )

    def add_model_and_data(
        self, model: str = "resnet20", data: str = "fashion-mnist", threads: int = 2
    ) -> None:
        """Adds the options that `load_data` and `trained_model` read, and ``--threads``."""
        for name, default in (("model", model), ("data", data)):
            known = options_of(Experiment)[name].names
            self.add_argument(
                f"--{name}", default=default, metavar="NAME", help=f"One of {', '.join(known)}"
            )
        for name in ("data_folder", "download"):
            declared = options_of(Experiment)[name]
            kind: dict[str, Any] = (
                {"action": "store_true"}
                if declared.plain_type is bool
                else {"type": Path, "metavar": declared.metavar}
            )
            self.add_argument(flag_of(name, declared), help=_unpunctuated(declared.help), **kind)
        self.add_argument(
            "--model-folder",
            type=Path,
            default=Path("runs/models"),
            metavar="FOLDER",
            help="Folder of trained models; a missing model is trained and kept there",
        )
        self.add_campaign_options(
            threads=threads, image_size=None, training_images=None, epochs=None
        )

    def add_repeats(self, default: int = 25) -> None:
        self.add_argument(
            "--repeats",
            type=COUNT,
            default=default,
            metavar="COUNT",
            help="Rounds of a comparison; each runs every contender once",
        )

    def add_json(self) -> None:
        self.add_argument(
            "--json", type=output_file, metavar="PATH", help="File for all figures, as JSON"
        )


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def accepted(
    convert: Callable[[str], Any], check: Callable[[Any], object] | None
) -> Callable[[str], Any]:
    """An argparse type: converts a text, and refuses a value with the sentence of ``check``."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = text  # the check refuses it
        try:
            if check is not None:
                check(value)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return parse


#: An argparse type: an integer of at least 1.
COUNT = accepted(int, integer(1))


def _check_rate(value: Any) -> object:
    from proact.faults import BitFlip

    return BitFlip(value)


#: An argparse type: a bit error rate, a probability per bit in [0, 1].
BIT_ERROR_RATE = accepted(float, _check_rate)


def output_file(text: str) -> Path:
    """An argparse type: a file that can be written. A file that exists is left as it is."""
    path = Path(text)
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be written: {error.strerror}") from None
    return path


def figure_file(text: str) -> Path:
    """An argparse type: a file that can be written, with the ending of a figure's format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    formats: Collection[str] = FigureCanvasAgg.get_supported_filetypes()
    if Path(text).suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"expected a file that ends in one of {', '.join(sorted(formats))}, got {text}"
        )
    return output_file(text)


def run_script(
    run: Callable[[argparse.Namespace], object],
    parser: Parser,
    arguments: Sequence[str] | None = None,
    *,
    after_interrupt: str = "nothing was written",
) -> int:
    """The exit code of a script: 0, 2 after bad input, 130 after Ctrl-C, 1 after an internal error.

    Args:
        run: gets the parsed arguments.
        arguments: without the script's name; those of the process by default.
        after_interrupt: ends the sentence that Ctrl-C prints: the state of the work.
    """
    options = parser.parse_args(arguments)

    def run_it() -> None:
        run(options)

    code = exit_code(run_it, arguments)
    if code == INTERRUPTED:
        print(f"interrupted: {after_interrupt}", file=sys.stderr)
    return code


def require_native() -> None:
    """Raises ProactError where proact has no native module to measure."""
    if _native.module is None:
        raise ProactError(f"the native module is missing: {_native.reason}")


def load_data(options: argparse.Namespace) -> Data:
    """The data set of ``--data``; sets torch's threads to ``--threads`` first."""
    import torch

    torch.set_num_threads(options.threads)
    names = ("data", "data_folder", "download", "image_size", "training_images")
    return Experiment(**{name: getattr(options, name) for name in names}).load_data()


def trained_model(options: argparse.Namespace, images: Data, seed: int = 0) -> nn.Module:
    """The model of ``--model``, trained on ``images`` unless it is kept already."""
    from proact import models

    recipe = recipe_of(options, images)
    return models.trained(options.model, images, seed, options.model_folder, recipe=recipe)


def recipe_of(options: argparse.Namespace, images: Data) -> Recipe:
    """The recipe that trains the model of ``--model``, with the epochs of ``--epochs``."""
    from proact import models

    untrained = models.create(options.model, images.num_classes, images.train.images.shape[1])
    recipe = models.recipe_for(images, untrained)
    return recipe if options.epochs is None else replace(recipe, epochs=options.epochs)


def require_device(device: str) -> None:
    """ProactError for a GPU that is not there, or that this build of proact cannot use."""
    import torch

    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise ProactError("--device cuda needs a GPU and torch for CUDA: there is none here")
    if build_info()["cuda"] is None:
        raise ProactError(
            "--device cuda needs proact built with CUDA: reinstall it with PROACT_CUDA=on"
        )


def device_name(device: str) -> str:
    import torch

    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def write_json(path: Path | None, document: Any) -> None:
    """Writes the figures where ``--json`` names a file."""
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"figures: {path}")


def _unpunctuated(sentence: str) -> str:
    """A help text to which argparse can append the default."""
    return sentence.removesuffix(".")
