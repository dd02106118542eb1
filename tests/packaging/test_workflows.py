"""Do the hosted workflows, .ci/run and the notes call commands that exist?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from built import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")


def targets() -> set[str]:
    rules = re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(" ".join(rules).split())


def workflow(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def called(script: str) -> set[str]:
    return set(re.findall(r"^\s*make ([a-z-]+)", script, re.MULTILINE))


def test_there_is_one_for_tests_wheels_and_docs() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "test", "wheels"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_makes_the_makefile_knows(path: Path) -> None:
    made = set().union(*(called(step.get("run", "")) for step in steps(path)))
    assert made
    assert made <= targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_by_digest(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_rights_are_given_job_by_job(path: Path) -> None:
    assert workflow(path)["permissions"] == {"contents": "read"}


def test_only_a_tag_is_published() -> None:
    jobs = workflow(ROOT / ".github" / "workflows" / "wheels.yml")["jobs"]
    publishing = [
        job
        for job in jobs.values()
        if any("publish" in step.get("uses", "") for step in job["steps"])
    ]
    assert [job["if"] for job in publishing] == ["startsWith(github.ref, 'refs/tags/v')"]
    assert set(publishing[0]["needs"]) == set(jobs) - {"publish"}


@pytest.mark.parametrize("name", [".ci/run", "CONTRIBUTING.md", "README.md"])
def test_what_is_told_to_be_made_the_makefile_knows(name: str) -> None:
    made = called((ROOT / name).read_text())
    assert made
    assert made <= targets()
