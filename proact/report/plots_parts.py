"""Figures of vulnerable layers and bits: the loss when faults hit one layer or one bit alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proact.report.style import Look, add_legend, as_text, looks, new_axes, widest
from proact.report.units import MetricUnits
from proact.results.stratum import Stratum

#: The distance between the first and the last variant's marks, as a part of that between layers.
_SPREAD = 0.6
#: The space for the names of fields above the marks, as a part of the axis.
_SPACE_FOR_NAMES = 0.16
#: The distance from the axis to the names of words, and from the bits to the label, in points.
_BELOW_BITS = 18


def layers_figure(
    sweeps: Mapping[str, Sequence[Stratum]], variants: Sequence[str], label: str, units: MetricUnits
) -> Figure:
    """Loss by layer with its interval, from the input down, one mark per variant.

    Args:
        sweeps: by variant; a layer that only some have (thresholds) keeps its place in the first of
            them.
        variants: all of the page in their order: a variant looks as in its other figures.
        label: of the loss: metric, unit and confidence.
    """
    layers = _merged([[part.name for part in parts] for parts in sweeps.values()])
    height = 1.5 + 0.17 * len(layers) * (1 + 0.5 * len(sweeps))
    figure, axes = new_axes(6.0 + widest(layers), min(max(height, 2.6), 40.0))
    places = {name: place for place, name in enumerate(layers)}
    axes.axvline(0.0, color="#000000", linewidth=0.8)
    for shift, variant, look in _apart(sweeps, variants):
        for part in sweeps[variant]:
            place = places[part.name] + shift
            _mark(axes, part, place, look, units, is_upright=False)
        axes.plot([], [], look.marker, color=look.colour, label=as_text(variant))
    axes.set_yticks(range(len(layers)), [as_text(name) for name in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel(label)
    add_legend(figure, axes)
    return figure


def bits_figure(
    sweeps: Mapping[str, Sequence[Stratum]],
    fields: Mapping[str, str | None],
    variants: Sequence[str],
    label: str,
    units: MetricUnits,
) -> Figure:
    """Loss by bit of a word with its interval, the highest bit on the left, as words are written.
    Words of several kinds stand side by side.

    Args:
        sweeps: by variant; parts are named ``7``, or ``int8 7`` where there are several kinds.
        fields: by part, the name of its field in the encoding; None where it has none.
        variants, label: as for `layers_figure`.
    """
    names = dict.fromkeys(part.name for parts in sweeps.values() for part in parts)
    words = list(dict.fromkeys(_word_and_bit(name)[0] for name in names))
    ranks = {
        name: (words.index(word), -bit) for name in names for word, bit in [_word_and_bit(name)]
    }
    bits = sorted(names, key=ranks.__getitem__)
    figure, axes = new_axes(max(0.24 * len(bits) + 1.5, 5.0), 3.8)
    places = {bit: place for place, bit in enumerate(bits)}
    axes.axhline(0.0, color="#000000", linewidth=0.8)
    for shift, variant, look in _apart(sweeps, variants):
        for part in sweeps[variant]:
            place = places[part.name] + shift
            _mark(axes, part, place, look, units, is_upright=True)
        axes.plot([], [], look.marker, color=look.colour, label=as_text(variant))
    axes.set_xticks(
        range(len(bits)), [str(_word_and_bit(bit)[1]) for bit in bits], fontsize="small"
    )
    axes.set_xlim(-0.7, len(bits) - 0.3)
    axes.grid(visible=False, axis="x")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + _SPACE_FOR_NAMES * (high - low))
    _name_fields(axes, bits, fields)
    if len(words) > 1:
        _name_words(axes, bits)
    pad = _BELOW_BITS if len(words) > 1 else None
    axes.set_xlabel("bit of the stored word (0 is the lowest)", labelpad=pad)
    axes.set_ylabel(label)
    add_legend(figure, axes)
    return figure


def _apart(
    sweeps: Mapping[str, Sequence[Stratum]], variants: Sequence[str]
) -> list[tuple[float, str, Look]]:
    step = _SPREAD / len(sweeps)
    return [
        ((index + 0.5) * step - 0.5 * _SPREAD, variant, looks(variants)[variant])
        for index, variant in enumerate(sweeps)
    ]


def _mark(
    axes: Axes, part: Stratum, place: float, look: Look, units: MetricUnits, is_upright: bool
) -> None:
    if part.is_missing:
        return
    estimate, low, high = (units.shown(end) for end in part.loss)
    ends = [[max(estimate - low, 0.0)], [max(high - estimate, 0.0)]]
    x, y = ([place], [estimate]) if is_upright else ([estimate], [place])
    axes.errorbar(
        x,
        y,
        xerr=None if is_upright else ends,
        yerr=ends if is_upright else None,
        fmt=look.marker,
        color=look.colour,
        markersize=4,
        elinewidth=1.0,
    )


def _word_and_bit(part: str) -> tuple[str, int]:
    """The kind of word, empty where there is one kind, and the number of the bit."""
    word, _, bit = part.rpartition(" ")
    return word, int(bit)


def _name_words(axes: Axes, bits: Sequence[str]) -> None:
    """Lines between the kinds of words, and their names below the bits."""
    place = 0
    for word, run in groupby(bits, key=lambda bit: _word_and_bit(bit)[0]):
        length = len(list(run))
        if place:
            axes.axvline(place - 0.5, color="#000000", linewidth=1.0)
        axes.annotate(
            as_text(word),
            (place + 0.5 * (length - 1), 0.0),
            (0, -_BELOW_BITS),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize="small",
        )
        place += length


def _name_fields(axes: Axes, bits: Sequence[str], fields: Mapping[str, str | None]) -> None:
    """Lines between the fields of a word, and their names at the top."""
    place = 0
    for (_, name), run in groupby(bits, key=lambda bit: (_word_and_bit(bit)[0], fields.get(bit))):
        length = len(list(run))
        if place:
            axes.axvline(place - 0.5, color="#000000", linewidth=0.6, linestyle=":")
        if name is not None:
            axes.annotate(
                as_text(name),
                (place - 0.4, 1.0),
                (0, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize="small",
                rotation=90 if length < 3 else 0,
            )
        place += length


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names in one order that keeps the given orders as far as they agree."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged
