"""``foveate_kernels`` stands alone: its public names, and a wheel that needs torch and triton."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import foveate_kernels
from foveate_kernels import ops, packed

ROOT = Path(__file__).parent.parent.parent
KERNELS = ROOT / "kernels"
EXAMPLE = re.findall(r"```python\n(.*?)```", (KERNELS / "README.md").read_text(), re.S)[0]
PUBLIC = {
    "add_layernorm",
    "add_layernorm_fp8",
    "bipartite_match",
    "cls_importance",
    "compact_tokens",
    "fold_patch_embed",
    "match_kept",
    "merge_groups",
    "packed_linear",
    "patch_variance",
    "patchify_u8",
    "quantize_rows",
    "select_tokens",
    "varlen_attention",
    "vwt_assign",
}


def test_the_public_names() -> None:
    assert set(ops.__all__) == PUBLIC
    assert {"DROPPED", "FOLDED", "Plan", "uniform"} <= set(packed.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_an_operator_says_what_it_takes_and_what_it_refuses(name: str) -> None:
    text = getattr(ops, name).__doc__
    assert "Args:" in text
    assert "Raises:" in text
    for argument in getattr(ops, name).__annotations__.keys() - {"return"}:
        assert re.search(rf"\b{argument}\b", text), argument


def test_every_operator_is_in_the_readme() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", (KERNELS / "README.md").read_text(), re.M))
    assert listed == {path.stem for path in Path(ops.__file__).parent.glob("[!_]*.py")}


def test_the_example_runs() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    assert names["left"].cu_seqlens.tolist() == [0, 100, 200]
    assert names["left"].x.shape == (394, 768)


def test_it_imports_torch_triton_and_itself() -> None:
    found = set()
    for path in Path(foveate_kernels.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    project = tomllib.loads((KERNELS / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]}
    assert found - sys.stdlib_module_names - {"foveate_kernels"} == needed == {"torch", "triton"}


def test_its_license_is_that_of_the_project() -> None:
    """A copy: an archive of ``kernels`` alone would have a link to nowhere."""
    assert not (KERNELS / "LICENSE").is_symlink()
    assert (KERNELS / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_its_wheel_runs_without_foveate(tmp_path: Path) -> None:
    """Built from an archive of the sources, installed into a folder of its own; ``-S`` keeps this
    checkout out of the search path."""
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t"]
    subprocess.run([*build, "sdist"], cwd=KERNELS, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    subprocess.run([*build, "wheel"], cwd=unpacked, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"foveate_kernels-{foveate_kernels.__version__}-py3-none-any.whl"
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    script = f"""
import importlib.util, torch
assert importlib.util.find_spec("foveate") is None
import foveate_kernels
assert foveate_kernels.__file__.startswith({str(site)!r})
assert foveate_kernels.__version__ == {foveate_kernels.__version__!r}
{EXAMPLE}
"""
    search = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
    subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**os.environ, "PYTHONPATH": search},
        cwd=tmp_path,
        check=True,
    )
