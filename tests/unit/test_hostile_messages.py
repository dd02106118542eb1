"""Are messages, progress and file names safe whatever names they hold, and what is refused?"""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import LONG, NAMES, OPTIONS, accuracy, is_safe, samples
from rich.console import Console
from torch import Tensor, nn

from fuzz.names import with_surrogate
from proact import campaign
from proact.campaign import CampaignProgress, Metric, RunOptions
from proact.config.progress import Stages
from proact.config.variants import _safe
from proact.faults import BitFlip
from proact.report import write_report
from proact.report.progress import CampaignBars
from proact.report.tables import metric_column
from proact.results import Result


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return samples()


@pytest.fixture(scope="module")
def result(data: tuple[Tensor, Tensor]) -> Result:
    return campaign.run({name: nn.Linear(4, 4) for name in NAMES}, data, [BitFlip(1e-2)], **OPTIONS)


def test_progress(data: tuple[Tensor, Tensor]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=True, color_system=None)
    models = {name: nn.Linear(4, 4) for name in NAMES[:12]}
    shown = CampaignBars(console)
    campaign.run(models, data, [BitFlip(1e-2)], **{**OPTIONS, "progress": shown})
    Stages(console).run(f"{NAMES[1]} :smile: \x1b]0;t\x07", lambda stage: stage.line("\x1b[2J[/x]"))
    Stages(console).say("[/nope] :smile: \x1b]0;t\x07")
    text = re.sub(r"\x1b\[\??[\d;]*[a-zA-Z]|\r", "", file.getvalue())  # rich's own
    assert is_safe(text)
    assert "[/nope] :smile: \\x1b]0;t\\x07" in text
    assert "relu[half] BitFlip(0.01)" in text


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_file_names(name: str, tmp_path: Path) -> None:
    part = _safe(name)
    assert len(part.encode()) <= 80
    assert "/" not in part
    (tmp_path / f"{part}-123456789012.unfinished.safetensors").touch()


def test_messages(result: Result, data: tuple[Tensor, Tensor]) -> None:
    def refuse(call: Any, *arguments: Any, **options: Any) -> None:
        with pytest.raises((ValueError, TypeError)) as refused:
            call(*arguments, **options)
        message = str(refused.value)
        assert is_safe(message)
        assert len(message) < 200 * len(NAMES)

    for name in NAMES:
        refuse(result.difference, name + "!", NAMES[0])
        refuse(result.cell, name, name)
        refuse(result.report, "never", baseline=name + "!")
        refuse(campaign.run, {name: 3}, data, [BitFlip(1e-2)])
        refuse(campaign.run, {name: nn.Linear(5, 4)}, data, [BitFlip(1e-2)], **OPTIONS)
        metric = Metric(name, lambda output, targets, clean: output)
        refuse(
            campaign.run, {name: nn.Linear(4, 4)}, data, [BitFlip(1e-2)], metric=metric, **OPTIONS
        )
        refuse(campaign.run, {name: nn.Linear(4, 2)}, data, [BitFlip(1e-2)], **OPTIONS)


def test_names_that_cannot_be_stored_are_refused_before_anything_runs(
    data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    def never(progress: CampaignProgress) -> None:
        assert not progress.cells

    path, model = tmp_path / "rows.sqlite", nn.Linear(4, 4)
    options = {**OPTIONS, "store": path, "progress": never}
    for seed in range(3):
        name = with_surrogate("relu", seed)
        with pytest.raises(
            ValueError, match="variants: the name of a variant has a lone surrogate"
        ):
            campaign.run({name: model}, data, [BitFlip(1e-2)], **options)
        with pytest.raises(ValueError, match="name: the name of a campaign has a lone surrogate"):
            RunOptions(name=name)
        with pytest.raises(ValueError, match="the name of a metric has a lone surrogate"):
            Metric(name, accuracy)
        of_tensor, of_module = nn.Linear(4, 4), nn.Sequential()
        of_tensor.register_buffer(name, torch.ones(1))
        of_module.add_module(name, nn.Linear(4, 4))
        for owner, hostile in (("tensor", of_tensor), ("module", of_module)):
            with pytest.raises(ValueError, match=f"the name of a {owner} has a lone surrogate"):
                campaign.run({"a": hostile}, data, [BitFlip(1e-2)], **options)
    with pytest.raises(TypeError, match="expected a text as the name of a variant, got 1"):
        campaign.run({1: model}, data, [BitFlip(1e-2)], **options)  # type: ignore[dict-item]
    assert not path.exists()


@pytest.mark.parametrize("name", ["variant", "low", "bits", "flips", "sdc_high", "critical"])
def test_a_metric_with_the_name_of_a_column_keeps_its_values(
    name: str, data: tuple[Tensor, Tensor]
) -> None:
    metric = Metric(name, accuracy)
    result = campaign.run({"a": nn.Linear(4, 4)}, data, [BitFlip(1e-2)], metric=metric, **OPTIONS)
    for frame in (result.to_pandas(), result.to_pandas(with_details=True)):
        assert frame[metric_column(name)].tolist() == [cell.value.estimate for cell in result.cells]
        assert frame["variant"].tolist() == ["a"]
        assert frame["low"].tolist() == [cell.value.low for cell in result.cells]


def test_errors_of_own_code_are_stored_and_shown(
    tmp_path: Path, data: tuple[Tensor, Tensor]
) -> None:
    from proact.results.store import Store

    path = tmp_path / "rows.sqlite"
    result = campaign.run({"a": nn.Linear(4, 4)}, data, [BitFlip(1e-2)], store=path, **OPTIONS)
    reasons = [*NAMES[:8], "half \ud800", LONG]
    with Store(path) as store:
        key = result.spec.cells[0].key
        store.execute("DELETE FROM row WHERE trial = 1")
        for reason in reasons:
            store.fail(key, 1, 1, reason)
    page = write_report(path, tmp_path / "report")["html"].read_text("utf-8")
    assert is_safe(page)
    assert unicodedata.is_normalized("NFC", page)


def test_notes_that_no_store_can_hold_are_refused_before_anything_runs() -> None:
    with pytest.raises(TypeError, match="notes: expected values that JSON can hold"):
        campaign.run({"m": nn.Linear(4, 4)}, samples(), [BitFlip(1e-2)], notes={"a": "\ud800"})
