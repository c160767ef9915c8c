"""Registration with PyTorch: one implementation per device, shapes for its compiler, and a form
that others can read.

``Library.impl`` rather than ``custom_op``: it costs 3 µs a call on the host instead of 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["interpret", "register", "tracing"]

_LIBRARY = torch.library.Library("foveate", "FRAGMENT")
_tracing = False  # a context variable would keep torch.compile from taking an operator whole
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def register(
    schema: str,
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    static: Callable[..., Any] | None = None,
) -> Any:
    """Define ``torch.ops.foveate.NAME`` and return what calls it.

    ``schema`` is in PyTorch's notation, ``name(Tensor x, int n) -> Tensor``. ``cpu`` is the
    reference, ``cuda`` the launcher; ``fake`` allocates what they return and computes nothing.
    ``static`` is called instead within :func:`tracing`: PyTorch's own operations, on images that
    all have ``max_seqlen`` rows. A tracer sees no custom operator, and every shape is a constant.

    No operator has a backward, and it says so to whoever asks for one: without, gradients would
    silently be None on a GPU. In inference mode this costs nothing.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, _on_its_device(cuda), "CUDA")
    _IMPLEMENTATIONS[name] = cpu, cuda
    torch.library.register_fake(f"foveate::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"foveate::{name}", _no_backward(name), lib=_LIBRARY)
    op = getattr(torch.ops.foveate, name).default
    if static is None:
        return op
    return lambda *args: static(*args) if _tracing else op(*args)


def _no_backward(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            f"foveate::{name} has no backward: call it under torch.inference_mode(), or train with"
            f" the reference in foveate_kernels/ops/{name}.py"
        )

    return backward


@contextmanager
def tracing() -> Iterator[None]:
    """Have operators take their static form, in all threads: to export a pass of fixed shapes."""
    global _tracing
    _tracing = True
    try:
        yield
    finally:
        _tracing = False


def _on_its_device(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, wherever the tensors are."""

    def guarded(*args: Any) -> Any:
        index = next(arg.device.index for arg in args if isinstance(arg, torch.Tensor))
        if index == torch.cuda.current_device():
            return launch(*args)
        with torch.cuda.device(index):
            return launch(*args)

    return guarded


def interpret(on: bool = True) -> None:
    """Send CPU tensors to the kernels, in a process under ``TRITON_INTERPRET=1``, or back."""
    for name, (cpu, cuda) in _IMPLEMENTATIONS.items():
        _LIBRARY.impl(name, cuda if on else cpu, "CPU", allow_override=True)
