"""What documents tell a newcomer to type works: their ``sh`` and ``python`` blocks are run in
order, in a copy of the project, with an image of the newcomer's own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from foveate.images import cluttered_digits as images

pytestmark = pytest.mark.alone  # its newcomer starts a server

ROOT = Path(__file__).parents[2]
PORTS = {"http": "8000", "grpc": "8001", "metrics": "8002", "adapter": "8080"}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Newcomer:
    """Types into a shell. Ports are free ones, since those of the documents may be taken."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._folder = folder
        self._ports = ports
        self._server: subprocess.Popen[str] | None = None
        self._environment = os.environ | {
            "FOVEATE_STATE_DIR": str(ROOT / ".state"),
            "FOVEATE_ADAPTER_STATE_DIR": str(folder / "state"),
        }

    def python(self, block: str) -> str:
        return self._run([sys.executable, "-c", self._moved(block)])

    def sh(self, block: str) -> str:
        """Output of a block; a line that ends in ``&`` starts the server, which is waited for."""
        said = ""
        for command in re.split(r"\n(?! )", block.strip().replace("\\\n", "\\\n ")):
            command = re.sub(r"\s+# .*", "", command)
            if command.endswith("&"):
                self._start(command.removesuffix("&"))
            else:
                said += self._run(["bash", "-eo", "pipefail", "-c", self._moved(command)])
        return said

    def leave(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGTERM)
            assert self._server.wait(60) == 0

    def _start(self, command: str) -> None:
        options = " ".join(f"--{name}-port={port}" for name, port in self._ports.items())
        with (self._folder / "serve.log").open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command} {options}"],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdout is not None
        assert self._server.stdout.readline().startswith("ready "), (
            self._folder / "serve.log"
        ).read_text()

    def _moved(self, command: str) -> str:
        for name, port in PORTS.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self._ports[name]}")
        return command.replace("classify ", f"classify --url 127.0.0.1:{self._ports['http']} ")

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def newcomer(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Newcomer]:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "model_repository"):
        (tmp_path / name).symlink_to(ROOT / name)
    # What `make setup` would make, which takes minutes: it finds it done.
    (tmp_path / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".ready":
            (tmp_path / ".venv" / part.name).symlink_to(part)
    (tmp_path / ".venv" / ".ready").touch()
    someone = Newcomer(tmp_path, {name: free_port() for name in PORTS})
    yield someone
    someone.leave()


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_a_newcomer_who_types_it_gets_there(
    document: str, newcomer: Newcomer, tmp_path: Path
) -> None:
    pixels, labels = images.test_set(1)
    Image.fromarray(pixels[0]).save(tmp_path / "digit.png")
    said = []
    for language, block in BLOCK.findall((ROOT / document).read_text()):
        said.append(newcomer.sh(block) if language == "sh" else newcomer.python(block))
    assert f"digit.png: {labels[0]} (" in "".join(said)


def test_three_commands_are_enough() -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks[0][1].strip().splitlines()) == 3
