"""The stage of the load test, with the SLO of all benchmarks."""

from __future__ import annotations

from foveate_loadtest import stage
from foveate_loadtest.stage import row
from foveate_loadtest.temporary_server import Addresses

__all__ = ["SLO_MS", "Stage", "row"]

SLO_MS = 200.0


class Stage(stage.Stage):
    """One model of a running server."""

    def __init__(self, server: Addresses, model: str) -> None:
        super().__init__(server, model, SLO_MS)
