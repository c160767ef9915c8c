"""Documents say what the measurements and the code say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from typer.main import get_command

from foveate.cli import app
from foveate.telemetry import COUNTERS, GAUGES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/methods.md", "docs/calibration.md", "docs/console.md"],
)
def test_tables_are_those_of_the_results(document: str) -> None:
    path = ROOT / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = (ROOT / document).read_text()
    assert tables.render(text) == text


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "docs/design.md", "docs/methods.md", "docs/console.md"],
)
def test_what_documents_name_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command in re.findall(r"`?foveate ([a-z-]+)\b", text):
        if command not in ("serve", "is", "spends", "refuses", "serves"):
            assert command in commands, command
    for path in re.findall(r"`((?:engine|tests|benchmarks|docs|adapter)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
    for metric in re.findall(r"`(foveate_\w+)`", text):
        assert metric in {**COUNTERS, **GAUGES} or metric in {
            "foveate_kernels",
            "foveate_adapter",
            "foveate_loadtest",
        }, metric
    for target in re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
