"""``foveate calibrate`` on a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_cli.main import app

CONFIG = """
backend: "foveate"
max_batch_size: 8  # by hand
parameters { key: "component" value { string_value: "classify" } }
"""


@pytest.fixture
def repository(version: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one tiny model, and images of two of its classes beside it."""
    model = version.parent
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "labels.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    rng = np.random.default_rng(0)
    for index in range(24):
        path = model.parent / "data" / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    monkeypatch.setenv("FOVEATE_STATE_DIR", str(model.parent / "state"))
    return model.parent


def run(repository: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", f"--repository={repository}", *options])


def test_it_writes_ladder_latencies_and_report(repository: Path) -> None:
    # Compiling some hundred candidates would take minutes.
    options = [f"--data={repository / 'data'}", "--json", "--max-loss=1", "--executor=reference"]
    result = run(repository, *options, "--budgets=0.6,0.3", f"--report={repository}/r.html")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    ladder = Ladder.load(repository / "toy" / "1" / "ladder.json")
    assert [level["name"] for level in facts["levels"]] == [level.name for level in ladder.levels]
    assert ladder.uses_labels
    (table,) = (repository / "state" / "toy").glob("latency-*.json")
    assert LatencyTable.load(table).ladder == ladder.digest
    found = facts["max_batch"]["images"]
    assert LatencyTable.load(table).batches[-1] == found
    assert f"max_batch_size: {found}  # by hand" in (repository / "toy/config.pbtxt").read_text()
    assert (repository / "r.html").exists()
    assert (repository / "r.png").exists()


def test_a_config_whose_largest_batch_cannot_be_set_is_refused_before_work_starts(
    repository: Path,
) -> None:
    (repository / "toy" / "config.pbtxt").write_text(CONFIG.replace("max_batch_size", "# it"))
    result = run(repository, f"--data={repository / 'data'}")
    assert "toy/config.pbtxt: 0 lines" in str(result.exception)
    assert not (repository / "state").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets=2"], "budgets=.2.0,.: expected"),
        (["--budgets=fast"], "budgets='fast': expected"),
        (["--multiple=0"], "multiple=0: expected 1..256"),
        (["--max-batch=129"], "max_batch=129: expected 1..128"),
        ([], "data: missing"),
        (["--data=/nowhere"], "data=/nowhere: not a folder"),
        (["--data=/nowhere", "--vocabulary=none"], "vocabulary=.*none"),
    ],
)
def test_bad_input_is_refused_before_work_starts(
    repository: Path, options: list[str], message: str
) -> None:
    result = run(repository, *options)
    assert result.exit_code == 1
    with pytest.raises(type(result.exception), match=message):
        raise result.exception
    assert not (repository / "state").exists()
