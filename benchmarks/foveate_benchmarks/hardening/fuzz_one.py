"""Fuzz one target until it has had its inputs: ``one.py NAME [libFuzzer options] CORPUS``.

A process of its own, since libFuzzer ends the one it runs in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import atheris

with atheris.instrument_imports(
    include=["foveate", "foveate_adapter", "PIL", "foveate_benchmarks.hardening"]
):
    from foveate_benchmarks.hardening.fuzz_targets import TARGETS

MOST_S = 3.0  # processor time of an input; libFuzzer's own limit counts what others take too


def timed(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        start = time.process_time()
        read(data)
        seconds = time.process_time() - start
        if seconds > MOST_S:
            raise TimeoutError(f"{seconds:.1f} s of processor time")

    return run


if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, timed(TARGETS[name].open()))
    atheris.Fuzz()
