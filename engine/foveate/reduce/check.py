"""Check a reducer's fields in a ladder before anything runs."""

from __future__ import annotations

from collections.abc import Collection

from foveate.errors import LadderError

__all__ = ["check_count", "check_word"]


def check_count(name: str, value: object, low: int, high: int, where: str) -> None:
    """``value`` is a whole number in low..high; raises :class:`LadderError` otherwise."""
    if type(value) is not int or not low <= value <= high:
        allowed = f"a whole number in {low}..{high}" if low <= high else "none, too few tokens"
        raise LadderError(f"{name}={value!r}: expected {allowed} {where}")


def check_word(name: str, value: object, known: Collection[str]) -> None:
    """``value`` is one of the words; raises :class:`LadderError` otherwise."""
    if value not in known:
        raise LadderError(f"{name}={value!r}: expected {' or '.join(map(repr, known))}")
