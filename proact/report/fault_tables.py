"""Tables of fault spaces, of encoding errors and of verifications of the sampler.

Each function takes the library's object and returns a table for `rich.print`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from proact.report.tables import Column, make_table

if TYPE_CHECKING:
    from proact.faults import EncodingReport, FaultSpace, Verification


def encoding_table(report: EncodingReport) -> Table:
    """One row for each tensor: its word, its elements, its stored bits, its largest rounding error,
    and the number of its elements that were saturated."""
    columns = [
        Column("tensor", is_text=True),
        Column("word", is_text=True),
        Column("elements"),
        Column("bits"),
        Column("largest error"),
        Column("saturated"),
    ]
    rows = [
        (
            loss.tensor,
            loss.word,
            f"{loss.elements:,}",
            f"{loss.bits:,}",
            f"{loss.largest_error:.3g}",
            f"{loss.saturated:,}",
        )
        for loss in report.tensors
    ]
    return make_table(columns, rows, str(report))


def verification_table(found: Verification) -> Table:
    """One row for each check; the caption states the verdict and the smallest passing p-value."""
    columns = [
        Column("check", is_text=True),
        Column("measured", is_text=True),
        Column("expected", is_text=True),
        Column("p-value"),
        Column("verdict", is_text=True),
    ]
    rows = [
        (
            check.name,
            check.measured,
            check.expected,
            "" if check.p_value is None else f"{check.p_value:.3g}",
            "passed" if found.passes(check) else "FAILED",
        )
        for check in found.checks
    ]
    title = (
        f"Sampler on {found.bits:,} bits of {found.encoding}, BER {found.ber:g}, "
        f"{found.trials} trials, seed {found.seed}"
    )
    caption = (
        f"{'PASSED' if found.passed else 'FAILED'}: a p-value fails below "
        f"{found.smallest_p_value:.1e}, so that a correct sampler fails about once in "
        f"{1 / found.alpha:,.0f} runs"
    )
    return make_table(columns, rows, title, caption)


def fault_space_table(space: FaultSpace, ber: float = 1e-6) -> Table:
    """One row for each exposed tensor, and the sums in the footer.

    Args:
        space: the fault space.
        ber: bit error rate of the expected flips; a probability per exposed bit in [0, 1].
    """
    title = f"Fault space in {space.encoding.name}, expected flips at BER {ber:g}"
    if space.whole is not None:
        title += f"; {100 * space.bits / space.whole:.3g} % of all stored bits"
    columns = [
        Column("tensor", is_text=True, footer="sum"),
        Column("layer", is_text=True),
        Column("kind", is_text=True),
        Column("elements", footer=f"{space.elements:,}"),
        Column("word", is_text=True),
        Column("bits", footer=f"{space.bits:,}"),
        Column("flips", footer=f"{ber * space.bits:.3g}"),
        Column("share %", footer="100"),
    ]
    rows = [
        (
            row["tensor"],
            row["layer"],
            row["kind"],
            f"{row['elements']:,}",
            row["word"],
            f"{row['bits']:,}",
            f"{row['flips']:.3g}",
            f"{100 * row['share']:.3g}",
        )
        for row in space.rows(ber)
    ]
    return make_table(columns, rows, title)
