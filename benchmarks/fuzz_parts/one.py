"""Fuzz one target until it has had its inputs: ``one.py NAME [libFuzzer options] CORPUS``.

A process of its own, since libFuzzer ends the one it runs in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["foveate", "foveate_adapter", "PIL", "fuzz_parts"]):
    from fuzz_parts.targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name].open())
    atheris.Fuzz()
