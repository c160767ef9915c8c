"""Settings of a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.errors import InputError

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Raises :class:`InputError` naming field, value and range."""

    budgets: tuple[float, ...] = (0.7, 0.5, 0.4, 0.32, 0.26, 0.22, 0.185)
    """Times to find a level for, as shares of level 0's time of a batch."""
    batch: int = 8
    """Images of the batch that is timed."""
    max_loss: float = 0.02
    """Largest loss of quality against level 0 a level may have."""
    step: float = 1.1
    """Least ratio of times between neighbouring levels."""
    multiple: int = 1
    """Counts of tokens are multiples of this, where the hardware works in tiles."""
    seed: int = 0
    """Of visual words, of the images to search on and of the order of moves."""
    search_images: int = 300
    """Images a search judges points on; a quarter of them decides which may start one, what it
    finds is judged on all."""
    starts: int = 2
    """Best schedules of each budget that a search starts from."""
    patience: float = 10.0
    """Most a search spends, as passes of level 0: it tries more schedules where they are cheap."""
    time_limit_s: float | None = None
    """The search stops after this long; measuring what it found goes on."""
    slo_ms: float = 200.0
    """Latency SLO that the largest batch is chosen for, milliseconds."""
    max_batch: int | None = None
    """Largest batch to serve; None chooses it."""

    def __post_init__(self) -> None:
        limits: dict[str, tuple[bool, str]] = {
            "budgets": (
                bool(self.budgets) and all(0 < share < 1 for share in self.budgets),
                "shares of level 0's time, each in (0, 1)",
            ),
            "batch": (1 <= self.batch <= 1024, "1..1024"),
            "max_loss": (0 <= self.max_loss <= 1, "0..1"),
            "step": (1 <= self.step <= 10, "1..10"),
            "multiple": (1 <= self.multiple <= 256, "1..256"),
            "seed": (0 <= self.seed < 2**32, f"0..{2**32 - 1}"),
            "search_images": (self.search_images >= 1, "at least 1"),
            "starts": (self.starts >= 1, "at least 1"),
            "patience": (self.patience >= 0, "at least 0"),
            "time_limit_s": (self.time_limit_s is None or self.time_limit_s >= 0, "at least 0"),
            "slo_ms": (self.slo_ms > 0, "more than 0"),
            "max_batch": (self.max_batch is None or 1 <= self.max_batch <= 128, "1..128"),
        }
        for name, (right, expected) in limits.items():
            if not right:
                raise InputError(f"{name}={getattr(self, name)!r}: expected {expected}")
