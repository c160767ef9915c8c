"""What of a part is asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asked"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """None: all there is."""

    name: str | None = None  # the model of part ``model``
    batches: tuple[int, ...] | None = None
    routes: tuple[str, ...] | None = None  # beginnings of "ROUTE" or "LEVEL ROUTE"
    ops: tuple[str, ...] | None = None
    energy: bool = True
