"""Part ``parity``: every kernel against its reference in float64, and whole models.

Every case of ``ops/*.py``, again in bfloat16, and again with images of very different lengths. The
reference runs on the CPU in float64 from the same rounded inputs. Around the rows of a batch lie
spare ones that are NaN; outputs start as NaN, and what is spare in them must still be. Twenty runs
are equal to the bit. Choices among equals by cosine may differ where the better one is by no more
than ``REGRET`` better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveate_benchmarks.gpu import model_parity
from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.cases import OPS, argument_names, cases, operator, reference
from foveate_benchmarks.gpu.choices import CHOICES, REGRET
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.rows import Rows, table

__all__ = ["check", "measure", "report", "variants"]

REPEATS = 20
SPARE = 5  # rows of NaN behind the rows of a batch
# Largest ‖x - reference‖ / ‖reference‖ by what is compared and the narrowest dtype of the inputs.
TOLERANCE = {
    "output": {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2},
    "score": {torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-3},
    "package": {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3},
}
EXACT, CHOICE = "exact", "choice"
OUTPUTS = {
    "add_layernorm": ("output", "output"),
    "add_layernorm_fp8": ("output", "output", "score"),
    "bipartite_match": (CHOICE, EXACT, EXACT, EXACT),
    "cls_importance": ("score",),
    "compact_tokens": ("package", EXACT, EXACT),
    "match_kept": (CHOICE,),
    "merge_groups": ("package", EXACT, EXACT),
    "packed_linear": ("output",),
    "patch_variance": (EXACT,),
    "patchify_u8": (EXACT,),
    "quantize_rows": ("output", "score"),
    "select_tokens": (EXACT,) * 4,
    "varlen_attention": ("output", "score", "score"),
    "vwt_assign": (CHOICE, "score"),
}
# Depend on lengths alone, not on a plan made for them.
ANY_LENGTHS = {"cls_importance", "select_tokens", "bipartite_match", "varlen_attention"}
PLANNED = ("compact_tokens", "merge_groups")
SINGLE = ("sizes", "weight")  # of their arguments: float32 whatever the rows are

Arguments = dict[str, Any]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    for op in OPS:
        for key, arguments in variants(op, clock.device, clock.quick):
            step = partial(check, op, arguments, kernel=clock.cuda)
            rows.run(f"{op}: {key}", step)
    model_parity.measure(rows, clock)


def variants(op: str, device: str, quick: bool) -> Iterator[tuple[str, Arguments]]:
    """Arguments of every case, also narrowed to bfloat16, also with other lengths."""
    names = argument_names(op)
    given = {case.name: case.args for case in cases(op, device, quick)}
    for key, args in given.items():
        arguments = dict(zip(names, args, strict=True))
        if op == "vwt_assign":
            arguments["threshold"] = None  # random patches are far from every word
        yield key, arguments
        halves = [k for k, x in arguments.items() if _dtype(x) == torch.float16]
        if halves and key.replace("fp16", "bf16") not in given.keys() - {key}:
            narrow = {k: _bfloat16(arguments[k]) for k in halves}
            yield f"{key} as bf16", arguments | narrow
        if op in ANY_LENGTHS:
            ragged = arguments | _ragged(arguments["cu_seqlens"])
            if "return_lse" in ragged:  # no case asks for it
                ragged["return_lse"] = True
            yield f"{key} ragged", ragged


def check(op: str, arguments: Arguments, *, kernel: bool) -> dict[str, Any]:
    """Compare one call: ``wrong`` says in words what is, ``errors`` how far off outputs are.

    ``kernel`` says that a kernel is called and not the reference, which may write spare rows and
    has no races.
    """
    call = operator(op)
    given = _with_spare_rows(arguments) if kernel else arguments
    with _poisoned():
        first = _tuple(call(*given.values()))
        again = [_tuple(call(*given.values())) for _ in range(REPEATS if kernel else 1)]
    wrong = []
    if not all(_same_bits(a, b) for run in again for a, b in zip(first, run, strict=True)):
        wrong.append(f"{REPEATS} runs differ")
    got = [x.cpu() for x in first]
    here = {key: x.cpu() if isinstance(x, Tensor) else x for key, x in arguments.items()}
    single = SINGLE if op in PLANNED else ()
    wide = (x if key in single else _double(x) for key, x in here.items())
    expected = _tuple(reference(op)(*wide))
    dtype = next((d for d in map(_dtype, here.values()) if d in TOLERANCE["output"]), None)
    errors: dict[str, float] = {}
    for index, kind in enumerate(OUTPUTS[op]):
        have, rest = _split(op, got[index], got, here)
        want, _ = _split(op, expected[index], expected, here)
        if kernel and not _untouched(rest):
            wrong.append(f"output {index}: spare rows were written")
        if kind == EXACT:
            if not torch.equal(have.double(), want.double()):
                wrong.append(f"output {index}: {(have != want).sum()} of {have.numel()} differ")
        elif kind == CHOICE:
            errors[f"regret {index}"] = regret = CHOICES[op](here, [have, *got[index + 1 :]])
            if not regret <= REGRET:
                wrong.append(f"output {index}: a choice worse by {regret:.1e}")
        else:
            assert dtype is not None
            errors[f"output {index}"] = error = _error(have, want)
            if not error <= TOLERANCE[kind][dtype]:
                wrong.append(f"output {index}: off by {error:.1e}, not {TOLERANCE[kind][dtype]:g}")
    if op == "compact_tokens" and not _kept_rows_are_copies(got, expected):
        wrong.append("output 0: a row that stays was changed")
    return {"errors": errors, "wrong": wrong}


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    by_op: dict[str, list[dict[str, Any]]] = {}
    for key, row in rows.items():
        if "wrong" in row:
            by_op.setdefault(key.split(":")[0], []).append(row)
            for text in row["wrong"]:
                print("WRONG", key, text)
    lines = [
        (
            op,
            f"{sum(not row['wrong'] for row in group)} of {len(group)}",
            f"{max((float(e) for row in group for e in row['errors'].values()), default=0):.1e}",
        )
        for op, group in by_op.items()
    ]
    table("parity with float64", ("operator or model", "right", "largest error"), lines)
    model_parity.report(rows)
    return {f"{op}: parity": not any(r["wrong"] for r in g) for op, g in by_op.items()}


def _with_spare_rows(arguments: Arguments) -> Arguments:
    """The same batch, with rows behind it that nobody may read."""
    if "cu_seqlens" not in arguments:
        return arguments
    total = int(arguments["cu_seqlens"][-1])
    padded = {k: _pad(x, total) if isinstance(x, Tensor) else x for k, x in arguments.items()}
    if "capacity" in arguments:
        padded["capacity"] += SPARE
    return padded | {"cu_seqlens": arguments["cu_seqlens"]}


def _pad(x: Tensor, total: int) -> Tensor:
    """``x`` with spare rows in the dimension that counts rows, its strides kept where they can."""
    if total not in x.shape:
        return x
    dim = x.shape.index(total)
    shape = [n + SPARE * (i == dim) for i, n in enumerate(x.shape)]
    if dim == 0:
        wide = torch.empty_strided(shape, x.stride(), dtype=x.dtype, device=x.device)
    else:
        wide = x.new_empty(shape)
    wide.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max)
    wide.narrow(dim, 0, total).copy_(x)
    return wide


def _split(
    op: str, x: Tensor, outputs: list[Tensor], arguments: Arguments
) -> tuple[Tensor, Tensor]:
    """The rows of an output that count, and those that must not be written."""
    if op == "packed_linear":
        dim, rows = 0, int(arguments["rows"])
    elif op in PLANNED and len(x) >= arguments["capacity"]:
        dim, rows = 0, int(outputs[1][-1])
    elif op not in PLANNED and "cu_seqlens" in arguments:
        total = int(arguments["cu_seqlens"][-1])
        dim = next((i for i, n in enumerate(x.shape) if n in (total, total + SPARE)), 0)
        rows = min(total, x.shape[dim])
    else:
        dim, rows = 0, len(x)
    return x.narrow(dim, 0, rows), x.narrow(dim, rows, x.shape[dim] - rows)


def _kept_rows_are_copies(got: list[Tensor], expected: list[Tensor]) -> bool:
    """All rows but the last of each image, which may be a package, are equal to the bit."""
    ends = got[1].long()
    stays = torch.ones(int(ends[-1]), dtype=torch.bool)
    stays[ends[1:] - 1] = False
    rows = len(stays)
    return torch.equal(got[0][:rows][stays].double(), expected[0][:rows][stays])


def _ragged(cu_seqlens: Tensor) -> Arguments:
    """As many images and rows, cut anywhere: some images are long, some have no rows."""
    images, total = len(cu_seqlens) - 1, int(cu_seqlens[-1])
    generator = torch.Generator().manual_seed(images)
    cuts = torch.randint(0, total + 1, (images - 1,), generator=generator).sort().values
    cuts[: images // 4] = 0
    ends = torch.cat([torch.tensor([0]), cuts, torch.tensor([total])]).to(torch.int32)
    return {"cu_seqlens": ends.to(cu_seqlens.device), "max_seqlen": int(ends.diff().max())}


@contextmanager
def _poisoned() -> Iterator[None]:
    """New tensors are NaN, or the largest integer, until written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def _untouched(x: Tensor) -> bool:
    if x.is_floating_point():
        return bool(x.isnan().all())
    return bool((x == torch.iinfo(x.dtype).max).all())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _error(x: Tensor, expected: Tensor) -> float:
    if x.numel() == 0:
        return 0.0
    size = float(expected.double().norm())
    return float((x.double() - expected.double()).norm()) / (size or 1.0)


def _dtype(x: Any) -> torch.dtype | None:
    """Of a tensor, or the dtype that an argument asks for."""
    return x.dtype if isinstance(x, Tensor) else x if isinstance(x, torch.dtype) else None


def _bfloat16(x: Any) -> Any:
    return x.to(torch.bfloat16) if isinstance(x, Tensor) else torch.bfloat16


def _double(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _tuple(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)
