"""Devices are named by the user, and what a GPU would run is prepared without one, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from foveate.devices import choose_device
from foveate.errors import InputError
from foveate.inference.block_times import measure_blocks
from foveate.inference.capture import REPEATS, prepare_graph
from foveate.inference.energy import energy_counter, image_joules
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Runtime
from foveate_cli.main import app

CPU = torch.device("cpu")
GRAPHS = Runtime(compiled=False, bf16=False, threads=1, graphs=CPU, asked="fp32")
ABSENT = f"cuda:{torch.cuda.device_count()}"  # on any machine


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "mps", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^device={name!r}: expected cpu, cuda or cuda:N$"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused_and_the_reason_given() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(InputError, match=f"^device='{ABSENT}': torch .*(CPUs|GPU|GPUs)"):
        choose_device(ABSENT)


@pytest.mark.parametrize("device", ["gpu", ABSENT])
@pytest.mark.parametrize(
    "command",
    [
        ["calibrate"],
        ["train-selector", "--budget-ms=5"],
        ["bench", "accuracy", "--data=/tmp"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_with_a_device_refuses_it_alike(
    repository: Path,
    tmp_path: Path,
    command: list[str],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEATE_STATE_DIR", str(tmp_path / "state"))
    result = CliRunner().invoke(app, [*command, f"--repository={repository}", f"--device={device}"])
    assert result.exit_code == 1
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(f"device='{device}': ")
    assert not (tmp_path / "state").exists()


def test_a_gpu_leaves_no_choice_of_an_executor() -> None:
    with pytest.raises(InputError, match="executor='compiled': expected auto with device=cuda:1"):
        Runtime.choose("compiled", device=torch.device("cuda", 1))


def test_a_runtime_of_graphs_answers_as_others_do(repository: Path) -> None:
    prepared = PreparedLadder.load(repository / "digits" / "1")
    engine = GRAPHS.engine(prepared, (1, 4))
    assert isinstance(engine, GraphEngine)
    assert engine.batches == (1, 2, 4)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8, generator=generator)
    own, expected = (e.infer(pixels, [0, 2, 1]).scores for e in (engine, ReferenceEngine(prepared)))
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def test_a_module_runs_many_times_in_a_graph_and_a_table_has_the_time_of_one(
    repository: Path,
) -> None:
    vit = PreparedLadder.load(repository / "digits" / "1").levels[0].vit
    calls: list[int] = []
    vit.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 7, vit.config.dim)
    # As it is: hooks are copied with the module.
    prepare_graph(vit.blocks[0], x, CPU)()
    assert len(calls) == REPEATS == GRAPHS.repeats

    def ticks() -> Iterator[float]:
        yield from range(10**6)

    ticking = ticks()
    times = measure_blocks(vit, 2, GRAPHS, points=3, rounds=1, clock=lambda: next(ticking))
    assert {*times.attention[0], *times.mlp[0]} == {1 / REPEATS}


def test_energy_is_of_an_image(repository: Path) -> None:
    """The counter is played: it gains 6 J between two readings."""
    engine = ReferenceEngine(PreparedLadder.load(repository / "digits" / "1"))
    readings = iter((100.0, 106.0))
    assert image_joules(engine, 1, 3, lambda: next(readings), seconds=0) == 2.0
    assert energy_counter(CPU) is None
