"""``proact profile``: lists the activation sites of a model and the memory of thresholds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proact.cli.options import AsJson, completing, given_values, takes_options
from proact.config.experiment import Experiment
from proact.config.names import USER_CODE
from proact.data.registry import names as data_names
from proact.models.registry import names as model_names

_OPTIONS = ("data_folder", "download", "image_size", "training_images", "collate", "forward")


@takes_options(Experiment, _OPTIONS)
def profile(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help=f"Model: {', '.join(model_names())}; or {USER_CODE}.",
            autocompletion=completing(model_names()),
        ),
    ] = "vgg16",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help=f"Data set that sets image shape and classes: {', '.join(data_names())}; "
            f"or {USER_CODE}.",
            show_default=False,
            autocompletion=completing(data_names()),
        ),
    ] = None,
    shape: Annotated[
        str,
        typer.Option("--shape", metavar="CxHxW", help="Shape of an image, without --data."),
    ] = "3x32x32",
    classes: Annotated[
        int, typer.Option("--classes", metavar="COUNT", help="Number of classes, without --data.")
    ] = 10,
    activations: Annotated[
        str,
        typer.Option(
            "--activations",
            metavar="KINDS",
            help="Kinds of activation: relu, gelu, silu, hardswish, several as in relu,gelu, or "
            "all.",
        ),
    ] = "relu",
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="MODULE",
            help="Name or pattern of modules whose activations are left alone; may be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """List activation sites and the memory of thresholds.

    Prints every site in execution order, and the number and size of the thresholds of each
    granularity. No training is needed.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.profiling import profile_of, profile_tables
    from proact.config.user_code import load_function

    values, _ = given_values(Experiment, given)
    forward = load_function("forward", values.get("forward"))
    images = None if data is None else Experiment(data=data, **values).load_data()
    kinds = tuple(activations.split(","))
    found = profile_of(
        model, images, shape, classes, activations=kinds, skip=skip or (), forward=forward
    )
    if as_json:
        print_json(found.document())
    else:
        print_tables(*profile_tables(found))
