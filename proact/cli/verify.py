"""``proact verify``: tests the fault sampler on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from proact.cli.options import AsJson, completing
from proact.config.names import USER_CODE
from proact.encodings.names import ENCODING_NAMES
from proact.models.registry import names as model_names


def verify(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help=f"Model: {', '.join(model_names())}; or {USER_CODE}.",
            autocompletion=completing(model_names()),
        ),
    ] = "small-cnn",
    encoding: Annotated[
        str,
        typer.Option(
            "--encoding",
            metavar="NAME",
            help=f"Stored form of the parameters: {', '.join(ENCODING_NAMES)} or another qM.N, "
            "also with a code, as in float32+bch2.",
            autocompletion=completing(ENCODING_NAMES),
        ),
    ] = "float32",
    ber: Annotated[
        float | None,
        typer.Option(
            "--ber",
            metavar="BER",
            show_default=False,
            help="Bit error rate, a probability per exposed bit in (0, 1/2]. "
            "[default: one that flips about a thousand bits per trial]",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", metavar="COUNT", help="Fault patterns (count), at least 50.")
    ] = 400,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="INTEGER",
            help="Seed, an integer in [0, 2^63 - 1). The same seed gives the same outcome.",
        ),
    ] = 0,
    where: Annotated[
        str,
        typer.Option("--where", metavar="PATTERN", help="Pattern of the names of exposed tensors."),
    ] = "*",
    bits: Annotated[
        str | None,
        typer.Option(
            "--bits",
            metavar="BITS",
            show_default=False,
            help="Exposed bit field, such as exponent, or a mask such as 0xff.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", metavar="SHARE", help="Probability that a correct sampler fails, in (0, 1)."
        ),
    ] = 1e-3,
    as_json: AsJson = False,
) -> None:
    """Test the fault sampler on this machine.

    Injects many fault patterns and tests them statistically: counts, uniformity, independence,
    restoring, equality across threads and instruction sets. Exit status: 0 if all checks pass, 1 if
    one fails, 2 for bad input.
    """
    from proact import faults
    from proact.cli.output import print_json, print_tables
    from proact.config.user_code import load_model
    from proact.report.fault_tables import verification_table

    found = faults.verify(
        load_model(model, num_classes=10, in_channels=3),
        encoding,
        ber=ber,
        trials=trials,
        seed=seed,
        where=where,
        bits=field_or_mask(bits),
        alpha=alpha,
    )
    if as_json:
        checks = [{**asdict(check), "passed": found.passes(check)} for check in found.checks]
        print_json({**asdict(found), "checks": checks, "passed": found.passed})
    else:
        print_tables(verification_table(found))
    if not found.passed:
        raise typer.Exit(1)


def field_or_mask(text: str | None) -> str | int | None:
    """Return a mask if ``text`` is a number (0x for hexadecimal), else the name of a field."""
    if text is None:
        return None
    try:
        return int(text, 0)
    except ValueError:
        return text
