"""``foveate loadtest``: what contradicts itself is refused before anything is asked or measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from foveate_cli.main import app
from foveate_loadtest.arrivals import Capacities
from foveate_loadtest.errors import ScheduleError, TargetError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--shape=ramp", "--scenario=calm"], ["--shape", "--scenario"]),
        (["--shape=ramp", "--recorded=FILE"], ["--recorded", "--shape"]),
        (["--arrivals=FILE", "--recorded=FILE"], ["--arrivals", "--recorded"]),
        (["--seconds=9"], ["--seconds", "--shape", "--recorded"]),
        (["--arrivals=FILE", "--load=1"], ["--load", "--shape", "--recorded"]),
        (["--scenario=calm", "--rate=5"], ["--rate", "--shape", "--recorded"]),
        (["--shape=ramp", "--rate=5", "--load=1"], ["--load", "--rate"]),
        (["--recorded=FILE", "--cv2=1"], ["--cv2", "--recorded"]),
        (["--arrivals=FILE", "--seed=0"], ["--seed", "--arrivals"]),
        (["--rows=FILE.txt"], ["--rows", ".parquet", ".csv", ".npz"]),
        (["--page=DIR"], ["--page", "folder"]),
        (["--core=9999"], ["--core", "9999"]),
    ],
)
def test_options_that_contradict_each_other_are_named(
    tmp_path: Path, options: list[str], named: list[str]
) -> None:
    file = tmp_path / "times"
    file.write_text("1\n2\n")
    result = CliRunner().invoke(
        app,
        [
            "loadtest",
            *(
                option.replace("FILE", str(file)).replace("DIR", str(tmp_path))
                for option in options
            ),
        ],
    )
    assert result.exit_code == 2
    assert all(name in result.output for name in named)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_folder_for_a_server_that_is_not_there_is_one_error(
    tmp_path: Path, protocol: str
) -> None:
    (tmp_path / "cat").mkdir()
    options = ["--target=classify", "--shape=steady", "--rate=5", f"--protocol={protocol}"]
    urls = ["--url=127.0.0.1:1", "--grpc-url=127.0.0.1:1"]
    result = CliRunner().invoke(app, ["loadtest", f"--image-set={tmp_path}", *options, *urls])
    assert isinstance(result.exception, TargetError)
    assert str(result.exception).startswith("127.0.0.1:1: cannot ask 'digits' for its classes: ")


def test_a_wish_is_read_before_anything_is_asked() -> None:
    result = CliRunner().invoke(
        app, ["loadtest", "--wish=colour=red:1", "--adapter-url=http://x:1"]
    )
    assert isinstance(result.exception, ScheduleError)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Whose capacity was measured, and what was to be run."""
    seen = SimpleNamespace(measured=[], config=None)

    def measure(server: str, *_: object) -> Capacities:
        seen.measured.append(server)
        return Capacities(exact=10.0, cheapest=40.0)

    def run(config: object, *_: object) -> None:
        seen.config = config
        raise KeyboardInterrupt

    monkeypatch.setattr("foveate_loadtest.capacity.measure_capacities", measure)
    monkeypatch.setattr("foveate_loadtest.run.run", run)
    monkeypatch.setattr("foveate_loadtest.ladder_facts.LadderFacts.from_file", lambda path: path)
    return seen


@pytest.mark.parametrize(
    ("options", "measured", "count"),
    [
        (["--shape=steady", "--cv2=0", "--rate=5", "--seconds=10"], [], 49),
        (["--shape=steady", "--cv2=0", "--seconds=10"], ["gpu:8001"], 279),
        (["--shape=steady", "--cv2=0", "--load=0.5", "--grpc-url=http://b:9"], ["b:9"], 1199),
    ],
)
def test_a_rate_needs_no_capacity_and_a_load_that_of_the_server(
    asked: SimpleNamespace, tmp_path: Path, options: list[str], measured: list[str], count: int
) -> None:
    (tmp_path / "ladder.json").touch()
    arrivals = tmp_path / "new" / "arrivals.json"
    CliRunner().invoke(
        app,
        [
            "loadtest",
            "--url=http://gpu:8000",
            "--slo-ms=100",
            f"--ladder={tmp_path / 'ladder.json'}",
            f"--save-arrivals={arrivals}",
            *options,
        ],
    )
    assert asked.measured == measured
    assert asked.config.server == (measured or ["gpu:8001"])[0]
    assert len(asked.config.schedule.times) == count
    assert arrivals.exists()
