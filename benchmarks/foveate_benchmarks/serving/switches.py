"""Ten thousand forced level switches under load, every answer compared with a fresh process.

    python -m foveate_benchmarks.serving.switches [NAME] [--repository model_repository]

The level changes with every request, so batches mix levels and neighbours differ. Each answer must
be within 1e-5 of the answer of an engine in a process of its own at the level it reports, and of
the same class.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import typer
from numpy.typing import NDArray

from foveate.images.cluttered_digits import test_set
from foveate.levels.ladder import Ladder
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.requests import answers, pixels
from foveate_loadtest.temporary_server import running

IMAGES, IN_FLIGHT = 64, 32

FRESH = """
import sys, numpy, torch
from pathlib import Path
from foveate.images.cluttered_digits import test_set
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
torch.set_num_threads(1)
engine = ReferenceEngine(PreparedLadder.load(Path(sys.argv[1])))
pixels = torch.from_numpy(test_set(int(sys.argv[2]))[0])
level = int(sys.argv[3])
scores = [engine.infer(p[None], [level]).scores[0].numpy() for p in pixels]
numpy.save(sys.argv[4], numpy.stack(scores))
"""


def fresh(folder: Path, level: int) -> NDArray[np.float32]:
    """Scores [IMAGES, classes] of a new process that runs one level, one image at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "scores.npy"
        arguments = [str(folder), str(IMAGES), str(level), str(path)]
        subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)
        scores: NDArray[np.float32] = np.load(path)
    return scores


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 10_001
) -> None:
    folder = repository / name / "1"
    levels = len(Ladder.load(folder / "ladder.json").levels)
    expected = np.stack([fresh(folder, level) for level in range(levels)])
    inputs = [pixels(image) for image in test_set(IMAGES)[0]]
    asked = ((name, inputs[n % IMAGES], {"level": n % levels}) for n in range(requests))
    failures, worst, wrong_class, wrong_level = 0, 0.0, 0, 0
    with running(repository, "--no-pin-cap", "--no-admission") as server:
        client = triton.InferenceServerClient(server.grpc)
        for number, answer, error in answers(client, asked, IN_FLIGHT):
            if error is not None:
                failures += 1
                print(error, flush=True)
                continue
            scores, level = answer.as_numpy("SCORES")[0], int(answer.as_numpy("LEVEL")[0, 0])
            truth = expected[level, number % IMAGES]
            worst = max(worst, float(np.abs(scores - truth).max()))
            wrong_class += int(scores.argmax() != truth.argmax())
            wrong_level += int(level != number % levels)
        client.close()
    checks = {
        "no failure": failures == 0,
        "within 1e-5 of a fresh process": worst <= 1e-5,
        "same class": wrong_class == 0,
        "the level asked for": wrong_level == 0,
    }
    result = {"switches": requests - 1, "failures": failures, "max_difference": worst}
    print(json.dumps(result))
    conclude("switches", checks, **result)


if __name__ == "__main__":
    typer.run(main)
