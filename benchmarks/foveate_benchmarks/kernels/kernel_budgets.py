"""Compile every kernel for GPUs that are not here and hold it to its budget.

    python -m foveate_benchmarks.kernels.kernel_budgets [--arch sm_90] [--op NAME] [--update]

A breach is a kernel that takes more registers or shared memory than ``kernel_budgets.json`` grants,
spills where it did not, needs more shared memory than the GPU has, has lost its matrix
instructions, or overwrites tiles that it still multiplies. ``--update`` grants what it takes now.
gfx942 is reported only. Kernels that round to FP8 are left out for GPUs that cannot. Budgets are
those of one version of Triton: with another, kernels are held to the rest. ``--brief`` compiles the
largest case of each operator and no other.

An update of everything without a breach also keeps a digest of what the compiler was given. While
that agrees, compiling again cannot find anything new, and ``make test`` does not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import triton
import typer

import foveate_kernels
from foveate_benchmarks.kernels.case import OPS
from foveate_kernels.compile_only import SHARED_LIMIT, TARGETS, Usage, compile_only, has_fp8, usage

BUDGETS = Path(__file__).parents[2] / "kernel_budgets.json"
SOURCES = (Path(foveate_kernels.__file__).parent, Path(__file__).parent)  # kernels, cases
BUDGETED = ("registers", "shared", "spills", "arrivals")


def compiled(op: str, arch: str, brief: bool = False) -> Iterator[tuple[str, Usage, bool]]:
    """Every different kernel of an operator, or those of its largest case: key, usage, whether it
    must use matrix units."""
    launch = importlib.import_module(f"foveate_kernels.ops.{op}").launch
    seen: set[str] = set()
    cases = list(importlib.import_module(f"foveate_benchmarks.kernels.{op}").cases("meta"))
    cases = [case for case in cases if has_fp8(arch) or not case.fp8]
    if brief and cases:
        cases = [max(cases, key=lambda case: (case.flops, case.bytes))]
    for case in cases:
        with compile_only(arch) as kernels:
            launch(*case.args)
        launched = [(kernel.hash, usage(kernel)) for kernel in kernels]
        multiplies = any(found.tensor_core for _, found in launched)
        for hash_, found in launched:
            if hash_ not in seen:
                seen.add(hash_)
                # Of several kernels one multiplies; if none does, none of them may be right.
                must = case.tensor_core and (found.tensor_core is not None or not multiplies)
                yield f"{op}: {found.kernel}: {case.name}", found, must


def breaches(
    arch: str, found: Usage, must_multiply: bool, budget: dict[str, int] | None
) -> list[str]:
    """What is wrong with a kernel, in words."""
    wrong = []
    if found.shared > SHARED_LIMIT[arch]:
        wrong.append(f"shared={found.shared}: {arch} has {SHARED_LIMIT[arch]}")
    if arch == "sm_90" and found.spills:
        wrong.append(f"spills={found.spills}: expected 0")
    if found.overwritten:
        wrong.append("a copy may write a tile that a product still reads")
    if must_multiply and found.tensor_core is None:
        wrong.append("no matrix instruction")
    if must_multiply and arch == "sm_90" and found.tensor_core != "wgmma":
        wrong.append(f"{found.tensor_core}: expected wgmma")
    if budget is None:
        wrong.append("no budget: run with --update")
        return wrong
    for key, granted in budget.items():
        if (taken := getattr(found, key) or 0) > granted:
            wrong.append(f"{key}={taken}: budget {granted}")
    return wrong


def digest(budgets: dict[str, Any], sources: Sequence[Path] = SOURCES) -> str:
    """Of all that decides whether kernels keep within ``budgets``, wherever the checkout lies."""
    files = [
        {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}
        for folder in sources
    ]
    told = json.dumps([triton.__version__, budgets, files], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def changed() -> bool:
    """Whether anything is not as it was when the budgets were granted."""
    stored = json.loads(BUDGETS.read_text())
    return bool(stored.get("digest") != digest(stored["budgets"]))


def main(
    arch: Annotated[list[str] | None, typer.Option(help="Repeat for several; default all")] = None,
    op: Annotated[list[str] | None, typer.Option(help="Repeat for several; default all")] = None,
    brief: Annotated[bool, typer.Option(help="Only the largest case of each operator")] = False,
    update: bool = False,
) -> None:
    stored = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {"budgets": {}}
    granted = update or stored.get("triton") == triton.__version__
    if not granted:
        print(f"budgets are of triton {stored.get('triton')}, this is {triton.__version__}")
    failed = 0
    for name in arch or TARGETS:
        gated = name != "gfx942"
        budgets = stored["budgets"].setdefault(name, {})
        for operator in op or OPS:
            kernels = list(compiled(operator, name, brief))
            if update:
                stale = [key for key in budgets if key.startswith(f"{operator}: ")]
                for key in stale:
                    del budgets[key]
            for key, found, must_multiply in kernels:
                taken = {key_: asdict(found)[key_] or 0 for key_ in BUDGETED}
                if update and gated:
                    budgets[key] = taken
                budget = budgets.get(key) if granted else {}
                wrong = breaches(name, found, must_multiply, budget) if gated else []
                failed += bool(wrong)
                numbers = "  ".join(f"{k} {v}" for k, v in taken.items())
                print(f"{name:7} {key:60} {numbers}  {found.tensor_core or ''}", *wrong, sep="  ")
        if not gated:
            stored["budgets"].pop(name)
    if update:
        stored |= {"triton": triton.__version__, "digest": None}
        if not (arch or op or brief or failed):
            stored["digest"] = digest(stored["budgets"])
        BUDGETS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    if failed:
        sys.exit(f"{failed} kernels outside their budget")


if __name__ == "__main__":
    typer.run(main)
