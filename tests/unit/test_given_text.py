"""Are texts that stand for huge values refused, and given values short in messages?"""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from proact import ProactError, faults
from proact.cli.main import main
from proact.config.parsing import faults_from, split_options, variants_from
from proact.config.reading import read_experiment
from proact.encodings import encoding_named
from proact.errors import closest
from proact.faults.by_selector import selector_pairs
from proact.options import above_0, integer
from proact.plain_values import MOST_LEVELS, check_limits, parse_json
from proact.text import MOST_OF_VALUE, short_repr, shortened

MIB = 1 << 20


def bomb(levels: int) -> str:
    """Each level is a list of nine aliases of the level before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join([*lines, f"seed: *a{levels - 1}"])


NINE = "9" * 5_000


@pytest.mark.long
@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        (".yaml", bomb(5), "there is no option 'a0'"),
        (".yaml", bomb(9), "stands for more than 2,000,000 values and characters"),
        (".yaml", bomb(40), "stands for more than 2,000,000 values and characters"),
        (".yaml", bomb(60), "nested more than 50 levels"),
        (
            ".yaml",
            f"seed: &a [{'[x, x, x], ' * 50}]\nber: [*a, *a, *a]",
            "seed: expected an integer",
        ),
        (".yaml", "seed: &a [*a]", "nested more than 50 levels"),
        (".yaml", "seed: &a {x: *a}", "nested more than 50 levels"),
        (".yaml", "a: &a {x: 1}\nb: {!!merge '<<': [*a, *a]}", "could not determine a constructor"),
        (".yaml", f"seed: {'[' * 100_000}", "nested more than 50 levels"),
        (".yaml", "- " * 5_000, "nested more than 50 levels"),
        (".yaml", "? " * 5_000, "nested more than 50 levels"),
        (".yaml", f"seed: {NINE}", "integers of at most 128 bits, got one of 5000 digits"),
        (".yaml", f"seed: 0x{'f' * 5_000}", "at most 128 bits, got <an integer of 20000 bits>"),
        (".yaml", f"margin: 1e{NINE}", "expected a finite number above 0, got inf"),
        (".yaml", "seed: !!timestamp x", "could not determine a constructor"),
        (".yaml", "seed: !!bool x", "'x' is no bool"),
        (".yaml", "seed: !!map ab", "expected a mapping node"),
        (".yaml", f"seed: !{'x' * 5_000} 3", "could not determine a constructor"),
        (".yaml", f"seed: *{'x' * 5_000}", "found undefined alias"),
        (".yaml", f"model: {'x' * 100_000}", "model: a model is one of"),
        (".yaml", f"? {'x' * 100_000}\n: 1", "there is no option 'xxx"),
        (".yaml", '"a\\nb\\e[31m": 1', r"'a\nb\x1b[31m'"),
        (".yaml", f"variants: {{{'x' * 900}: 1}}", "expected unprotected, a mapping"),
        (".yaml", f"faults: [{{kind: {'x' * 100_000}}}]", "expected a kind of fault"),
        (".yaml", f"faults: [{{kind: BitFlip, ber: {'x' * 100_000}}}]", "a bit error rate"),
        (".yaml", f"variants: [{'x' * 100_000}]", "a method is one of"),
        (".yaml", "#" * 1_000_001, "has 1,000,001 bytes: expected an experiment file"),
        (".toml", f"seed = {'[' * 100_000}", "nested more than 50 levels"),
        (".toml", f"seed = {'[' * 60}{']' * 60}", "nested more than 50 levels"),
        (".toml", f"{'.'.join('a' * 60)} = 1", "nested more than 50 levels"),
        (".toml", f"seed = {NINE}", "is not valid TOML|at most 128 bits"),
        (".toml", f"seed = 0x{'f' * 5_000}", "at most 128 bits"),
        (".toml", f"{'x' * 5_000} = 1", "there is no option"),
    ],
)
def test_a_text_bomb_is_one_short_sentence(
    suffix: str, text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / f"e{suffix}"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, ProactError)) as raised:
            read_experiment(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()
    message = str(raised.value)
    assert re.search(words if "|" in words else re.escape(words), message), message
    assert message.isprintable()
    assert len(message) < 1_000


def test_an_alias_that_is_used_a_few_times_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(
        "variants:\n  a: &a {method: ranger, mode: zero}\n  b: [*a, weight-range]\n  c: *a\n"
    )
    found = read_experiment(path).variants
    assert found["a"] == found["c"]
    assert found["b"].steps[0] == found["a"].steps[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested more than 50 levels"),
        (f"{'[' * 60}{']' * 60}", "nested more than 50 levels"),
        (NINE, "at most 128 bits, got one of 5000 digits"),
        ("-" + "9" * 50, "at most 128 bits"),
        ("{,", "Expecting property name"),
    ],
)
def test_json_has_the_same_limits(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        parse_json(text)
    assert len(str(raised.value)) < 200
    with pytest.raises(ValueError, match=words):
        faults.fault_from_json(text)
    with pytest.raises(ValueError, match=words):
        selector_pairs(f'{{"x": {text}}}', "code", "{}")


def test_json_within_the_limits_is_what_json_says() -> None:
    value = {"a": [1, -2, 1 << 120, 1.5, None, True, "x"], "b": {"c": [[]]}}
    assert parse_json(json.dumps(value)) == value
    deepest: Any = []
    for _ in range(MOST_LEVELS - 1):
        deepest = [deepest]
    check_limits(deepest)
    with pytest.raises(ValueError, match="nested more than"):
        check_limits([[deepest]])
    with pytest.raises(ValueError, match="'x' is given twice"):
        selector_pairs('{"x": 1, "x": 2}', "code", "{}")


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        b"x" * 1_000_000,
        ["x"] * 1_000_000,
        dict.fromkeys(range(1000), "x"),
        (("y" * 100,) * 100,) * 100,
        {1, 2, 3, *range(10_000)},
        10**5_000,
        -(10**5_000),
        "a\nb\x1b[31m\u2028\ud800",
        torch.zeros(1_000),
        torch.nn.Linear(3, 3),
        type("Broken", (), {"__repr__": lambda self: 1 / 0})(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_given_value_is_short_and_one_line(value: object) -> None:
    text = short_repr(value)
    assert len(text) <= MOST_OF_VALUE
    assert text.isprintable()


@pytest.mark.parametrize(
    "value", ["relu", 3, -1.5, None, True, [1, "a"], (1,), {"b": 1, "a": [2]}, b"x", "a'\n", set()]
)
def test_a_short_value_is_shown_as_python_shows_it(value: object) -> None:
    assert short_repr(value) == repr(value)


def test_the_cost_of_a_message_does_not_grow_with_the_value() -> None:
    nested: Any = ["x"]
    for _ in range(40):
        nested = [nested] * 9  # 9^40 values
    tracemalloc.start()
    try:
        assert len(short_repr(nested)) <= MOST_OF_VALUE
        assert closest(nested, ["mode"]) == ""
        assert closest("mode" * 100_000, ["mode"]) == ""
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_shortened_text_keeps_both_ends() -> None:
    assert shortened("short") == "short"
    text = shortened("begin" + "x" * 1_000 + "end")
    assert (len(text), text[:5], text[-3:]) == (MOST_OF_VALUE, "begin", "end")


HUGE = "x" * 100_000


@pytest.mark.parametrize(
    "call",
    [
        lambda: integer(0)(HUGE),
        lambda: integer(0, 10)(10**5_000),
        lambda: above_0(10**400),
        lambda: above_0([HUGE] * 100),
        lambda: encoding_named(HUGE),
        lambda: faults.BitFlip(HUGE),  # type: ignore[arg-type]
        lambda: faults.BitFlip(0.1, bits=[HUGE, 1.5]),  # type: ignore[arg-type]
        lambda: faults.BitFlip(0.1, where=faults.Where(kind=HUGE)),
        lambda: faults.fault_from_dict({"kind": [HUGE]}),
        lambda: faults.fault_from_dict({"kind": "BitFlip", HUGE: 1}),
        lambda: faults.Replay([(HUGE,)]),  # type: ignore[list-item]
        lambda: faults_from([{"kind": HUGE}]),
        lambda: faults_from({HUGE: HUGE}),
        lambda: variants_from([f"{HUGE}:{HUGE}"]),
        lambda: variants_from({HUGE: {HUGE: [HUGE]}}),
    ],
)
def test_messages_do_not_repeat_a_huge_value(call: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize("number", range(50))
def test_commas_inside_brackets_split_no_options(number: int) -> None:
    draw = random.Random(number)

    def value(depth: int) -> Any:
        if depth == 0 or draw.random() < 0.3:
            return draw.choice([0.95, 3, "layer", True, (), [], {}])
        parts = [value(depth - 1) for _ in range(draw.randrange(4))]
        return draw.choice([tuple(parts), parts, dict(enumerate(parts))])

    options = {f"option{i}": value(3) for i in range(draw.randrange(1, 5))}
    text = ",".join(f"{name}={given!r}" for name, given in options.items())
    assert split_options(f"m:{text}") == ("m", options)


def test_a_bracket_that_is_not_closed_is_part_of_the_value() -> None:
    assert split_options("m:a=(1,2") == ("m", {"a": "(1,2"})
    assert split_options("m:a=1),b=2") == ("m", {"a": "1)", "b": 2})


def test_a_text_of_many_commas_is_split_in_one_pass() -> None:
    with pytest.raises(
        ValueError, match="expected an option name=value of ranger, got .*"
    ) as raised:
        split_options("ranger:(" + "," * 500_000)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "arguments", [["campaign", "--trials", "9" * 5_000], [f"--{'x' * 5_000}"], ["x" * 5_000]]
)
def test_the_command_line_cuts_what_was_given(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error) < 1_000
    assert len(error.splitlines()) == 1
