"""Registration with PyTorch: one implementation per device, shapes for its compiler, and a form
that others can read.

``Library.impl`` rather than ``custom_op``: it costs 3 µs a call on the host instead of 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ["launching", "register", "tracing"]

_LIBRARY = torch.library.Library("foveate", "FRAGMENT")
_tracing = False  # a context variable would keep torch.compile from taking an operator whole
_LAUNCHERS: dict[str, Callable[..., Any]] = {}
_OTHERS: dict[str, dict[str, Callable[..., Any]]] = {"CPU": {}, "Meta": {}}  # by dispatch key


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
    _LAUNCHERS[name] = cuda
    _OTHERS["CPU"][name], _OTHERS["Meta"][name] = cpu, fake
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


@contextmanager
def launching(key: Literal["CPU", "Meta"]) -> Iterator[None]:
    """Send tensors of the CPU to the kernels, in a process under ``TRITON_INTERPRET=1``; or those
    without data, to see what is launched."""
    for name, launch in _LAUNCHERS.items():
        _LIBRARY.impl(name, launch, key, allow_override=True)
    try:
        yield
    finally:
        for name, other in _OTHERS[key].items():
            _LIBRARY.impl(name, other, key, allow_override=True)
