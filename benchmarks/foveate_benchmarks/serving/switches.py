"""Ten thousand forced level switches under load, every answer compared with a fresh process.

    python -m foveate_benchmarks.serving.switches [NAME] [--repository model_repository]

The level changes with every request, so batches mix levels and neighbours differ. Each answer must
be within 1e-5 of the answer of an engine in a process of its own at the level it reports, and of
the same class.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import typer

from foveate.images.cluttered_digits import test_set
from foveate.levels.ladder import Ladder
from foveate_benchmarks.results import bars, environment, save
from foveate_loadtest.temporary_server import running

IMAGES, IN_FLIGHT = 64, 32

FRESH = """
import sys, numpy, torch
from pathlib import Path
from foveate.images.cluttered_digits import test_set
from foveate.inference.packed import Engine
torch.set_num_threads(1)
engine = Engine.load(Path(sys.argv[1]))
pixels = torch.from_numpy(test_set(int(sys.argv[2]))[0])
level = int(sys.argv[3])
scores = [engine.infer(p[None], [level]).scores[0].numpy() for p in pixels]
numpy.save(sys.argv[4], numpy.stack(scores))
"""


def fresh(folder: Path, level: int) -> np.ndarray:
    """Scores [IMAGES, classes] of a new process that runs one level, one image at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "scores.npy"
        arguments = [str(folder), str(IMAGES), str(level), str(path)]
        subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)
        return np.load(path)  # type: ignore[no-any-return]


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 10_001
) -> None:
    folder = repository / name / "1"
    levels = len(Ladder.load(folder / "ladder.json").levels)
    expected = np.stack([fresh(folder, level) for level in range(levels)])
    pixels, _ = test_set(IMAGES)
    inputs = []
    for image in pixels:
        tensor = triton.InferInput("PIXELS", [1, *image.shape], "UINT8")
        tensor.set_data_from_numpy(image[None])
        inputs.append(tensor)
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    failures: list[str] = []
    worst, wrong_class, wrong_level = 0.0, 0, 0

    def collect() -> None:
        nonlocal worst, wrong_class, wrong_level
        step, answer, error = answers.get(timeout=60)
        if error is not None:
            failures.append(str(error))
            return
        scores, level = answer.as_numpy("SCORES")[0], int(answer.as_numpy("LEVEL")[0, 0])
        truth = expected[level, step % IMAGES]
        worst = max(worst, float(np.abs(scores - truth).max()))
        wrong_class += int(scores.argmax() != truth.argmax())
        wrong_level += int(level != step % levels)

    with running(repository, "--no-pin-cap", "--no-admission") as server:
        client = triton.InferenceServerClient(server.grpc)
        for step in range(requests):
            if step >= IN_FLIGHT:
                collect()
            client.async_infer(
                name,
                [inputs[step % IMAGES]],
                callback=lambda result, error, step=step: answers.put((step, result, error)),
                parameters={"level": step % levels},
            )
        for _ in range(min(IN_FLIGHT, requests)):
            collect()
        client.close()
    checks = {
        "no failure": not failures,
        "within 1e-5 of a fresh process": worst <= 1e-5,
        "same class": wrong_class == 0,
        "the level asked for": wrong_level == 0,
    }
    result = {"switches": requests - 1, "failures": len(failures), "max_difference": worst}
    print(json.dumps(result))
    save("switches", {"environment": environment(), **result, "bars": checks})
    bars(checks)


if __name__ == "__main__":
    typer.run(main)
