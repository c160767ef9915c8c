"""Documents say what the measurements and the code say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from typer.main import get_command

from foveate.backend.telemetry import COUNTERS, GAUGES
from foveate_adapter.own_metrics import Metrics
from foveate_benchmarks import tables
from foveate_cli.main import app

ROOT = Path(__file__).parent.parent
OF_ADAPTER = re.findall(r"^# TYPE (\w+)", Metrics([]).text()[0].decode(), re.M)
PACKAGES = ("foveate_kernels", "foveate_adapter", "foveate_loadtest", "foveate_benchmarks")
DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
KNOWN = {*COUNTERS, *GAUGES, *OF_ADAPTER, *PACKAGES}


@pytest.mark.parametrize("document", ["README.md", "kernels/README.md", *DOCS])
def test_tables_are_those_of_the_results(document: str) -> None:
    text = (ROOT / document).read_text()
    assert tables.render(text) == text


def test_the_picture_is_that_of_the_results() -> None:
    assert tables.PICTURE.read_text() == tables.picture()


def test_no_part_of_the_evidence_is_missing() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text()
    parts = dict(re.findall(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", text, re.S))
    assert len(parts) == 11
    assert [name for name, part in parts.items() if "|" not in part] == []


def test_the_configuration_reference_is_what_the_settings_say() -> None:
    path = ROOT / "docs" / "configuration.py"
    page = runpy.run_path(str(path))["render"]()
    assert page == path.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", *DOCS],
)
def test_what_documents_name_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command in re.findall(r"(?<!-n )foveate ([a-z-]+)\b", text):
        if command not in ("is", "spends", "refuses", "serves"):
            assert command in commands, command
    folders = "engine|tests|benchmarks|deploy|docs|adapter"
    for path in re.findall(rf"`((?:{folders})/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
    for metric in re.findall(r"`(foveate_\w+)`", text):
        assert metric in KNOWN, metric
    for target in re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
