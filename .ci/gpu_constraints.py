"""Write constraints-gpu.txt: the pins of constraints.txt, but what torch's CUDA build wants.

Resolves all that is of use beside a GPU, for Python and platform of the Triton container, without
downloading any of it. torch must not come from an index of CPU builds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# torch names the one version it wants, and its CPU build another.
DIFFERENT = {"triton"}
REQUIREMENT = ".[demo,import,gpu]"
PYTHON = "3.12"  # of the Triton container, as is the C library
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)]
LEGACY = [f"manylinux{year}_x86_64" for year in (1, 2010, 2014)]
HEAD = """\
# For GPUs, and for the Triton container: constraints.txt with torch's CUDA build and what it wants.
# Written by .ci/gpu_constraints.py.
"""


def read_pins(text: str) -> dict[str, str]:
    """Version by package, as its file spells it."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.M))


def normal(name: str) -> str:
    """A name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(constraints: Path) -> subprocess.CompletedProcess[str]:
    """What pip would install; its report is on stdout."""
    tags = [option for tag in (*PLATFORMS, *LEGACY) for option in ("--platform", tag)]
    target = ["--python-version", PYTHON, "--only-binary=:all:", *tags]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
                *("--quiet", "--disable-pip-version-check", "--report", "-"),
                *("--target", folder, *target),
                *("-c", str(constraints), REQUIREMENT),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )


def versions(report: str) -> dict[str, str]:
    """Version by package of what pip would install, without this project."""
    found = (entry["metadata"] for entry in json.loads(report)["install"])
    pins = {one["name"]: one["version"] for one in found}
    return {name: version for name, version in pins.items() if name != "foveate"}


def main() -> None:
    pins = read_pins((ROOT / "constraints.txt").read_text())
    kept = {name: version for name, version in pins.items() if name not in DIFFERENT}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in kept.items())
        file.flush()
        done = resolve(Path(file.name))
    if done.returncode:
        raise SystemExit(done.stderr)
    known = {normal(name) for name in kept}
    found = versions(done.stdout)
    every = kept | {name: found[name] for name in found if normal(name) not in known}
    lines = [f"{name}=={every[name]}\n" for name in sorted(every, key=str.lower)]
    (ROOT / "constraints-gpu.txt").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
