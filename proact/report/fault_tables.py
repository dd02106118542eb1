"""Tables of fault spaces, of encoding errors and of verifications of the sampler.

Each function takes the library's object and returns a table for `rich.print`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.table import Table

if TYPE_CHECKING:
    from proact.faults import EncodingReport, FaultSpace, Verification


def encoding_table(report: EncodingReport) -> Table:
    """One row for each tensor: its word, its size, its largest rounding error, and how many of its
    elements were saturated."""
    table = Table(title=str(report))
    for heading in ("tensor", "word", "elements", "largest error", "saturated"):
        is_text = heading in ("tensor", "word")
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    for loss in report.tensors:
        table.add_row(
            loss.tensor,
            loss.word,
            f"{loss.elements:,}",
            f"{loss.largest_error:.3g}",
            f"{loss.saturated:,}",
        )
    return table


def verification_table(found: Verification) -> Table:
    """One row for each check; the caption states the verdict and the smallest passing p-value."""
    table = Table(
        title=f"Sampler on {found.bits:,} bits of {found.encoding}, BER {found.ber:g}, "
        f"{found.trials} trials, seed {found.seed}",
        caption=f"{'PASSED' if found.passed else 'FAILED'}: a p-value fails below "
        f"{found.smallest_p_value:.1e}, so that a correct sampler fails about once in "
        f"{1 / found.alpha:,.0f} runs",
    )
    for heading in ("check", "measured", "expected", "p-value", "verdict"):
        table.add_column(heading, justify="right" if heading == "p-value" else "left")
    for check in found.checks:
        table.add_row(
            check.name,
            check.measured,
            check.expected,
            "" if check.p_value is None else f"{check.p_value:.3g}",
            "passed" if found.passes(check) else "FAILED",
        )
    return table


def fault_space_table(space: FaultSpace, ber: float = 1e-6) -> Table:
    """One row for each exposed tensor, and the sums in the footer.

    Args:
        space: the fault space.
        ber: bit error rate of the expected flips; a probability per exposed bit in [0, 1].
    """
    rows, stored_bits = space.rows(ber), space.whole
    title = f"Fault space in {space.encoding.name}, expected flips at BER {ber:g}"
    if stored_bits is not None:
        title += f"; {100 * space.bits / stored_bits:.3g} % of all stored bits"
    table = Table(title=title, show_footer=True)
    for heading, footer in (
        ("tensor", "sum"),
        ("layer", ""),
        ("kind", ""),
        ("elements", f"{space.elements:,}"),
        ("word", ""),
        ("bits", f"{space.bits:,}"),
        ("flips", f"{ber * space.bits:.3g}"),
        ("share %", "100"),
    ):
        side: Literal["left", "right"] = "left" if footer in ("", "sum") else "right"
        table.add_column(heading, footer, justify=side, overflow="fold")
    for row in rows:
        table.add_row(
            row["tensor"],
            row["layer"],
            row["kind"],
            f"{row['elements']:,}",
            row["word"],
            f"{row['bits']:,}",
            f"{row['flips']:.3g}",
            f"{100 * row['share']:.3g}",
        )
    return table
