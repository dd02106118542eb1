"""What protection.py prints: costs, accuracies and paired gains, on the screen and as Markdown."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from torch import nn

from proact import campaign, protect
from proact.data import Data


def cost_table(variants: dict[str, nn.Module], images: Data, encoding: str) -> Table:
    """What each variant stores, and what it costs without faults."""
    table = _table(
        f"Cost of protection, {encoding}, no faults",
        "variant",
        "thresholds",
        "bounds",
        "bytes",
        "% of parameters",
        "clean accuracy %",
        "before hardening %",
        "latency ratio",
    )
    plain = variants["relu"]
    for name, model in variants.items():
        protection = protect.protection_of(model)
        applied = [method for method, _ in protection.applied] if protection is not None else []
        trained = not set(applied).isdisjoint(protect.trained_methods())
        # Not `unprotected=plain`: its accuracy would be measured anew for every variant.
        cost = protect.cost(model, images.test, encoding, soft=trained)
        latency = protect.latency_ratio(model, plain, images.test.images[:100])
        table.add_row(
            name,
            f"{cost.thresholds:,}",
            f"{cost.bounds:,}",
            f"{cost.bytes:,.0f}",
            f"{cost.percent:.2f}",
            f"{100 * cost.clean:.2f}",
            "" if cost.clean_soft is None else f"{100 * cost.clean_soft:.2f}",
            f"{latency:.2f}",
        )
    return table


def table_of_accuracies(result: campaign.Result, title: str) -> Table:
    """Variant x BER."""
    rates = list(dict.fromkeys(cell.ber for cell in result.cells))
    table = _table(title, "variant", *(f"{rate:g}" for rate in rates))
    for variant in dict.fromkeys(cell.variant for cell in result.cells):
        cells = [cell for cell in result.cells if cell.variant == variant]
        table.add_row(
            variant,
            *(
                f"{100 * cell.accuracy.estimate:.1f} ({100 * cell.accuracy.low:.1f} to "
                f"{100 * cell.accuracy.high:.1f})"
                for cell in cells
            ),
        )
    return table


def gain_table(result: campaign.Result, baseline: str) -> Table:
    """Of each variant over the baseline on the same faults and images, in points of accuracy."""
    faults = list(dict.fromkeys(fault for _, fault in result.rows))
    rates = [result.bers[baseline, fault] for fault in faults]
    title = f"Gain over {baseline}, paired (points of accuracy)"
    table = _table(title, "variant", *(f"{rate:g}" for rate in rates))
    for variant in result.clean:
        if variant != baseline:
            gains = result.difference(variant, baseline).values()
            table.add_row(
                variant,
                *(
                    f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
                    for gain in gains
                ),
            )
    return table


def write_markdown(tables: list[Table], path: Path) -> None:
    """The same tables for a README."""
    lines = []
    for table in tables:
        headings = [str(column.header) for column in table.columns]
        lines += [f"{table.title}:", "", f"| {' | '.join(headings)} |"]
        lines.append(f"|---|{'---:|' * (len(headings) - 1)}")
        cells = [list(column.cells) for column in table.columns]
        lines += [f"| {' | '.join(map(str, row))} |" for row in zip(*cells, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines))


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table
