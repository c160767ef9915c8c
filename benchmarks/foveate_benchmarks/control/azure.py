"""Derive the series of shape ``azure`` from a public trace.

    python -m foveate_benchmarks.control.azure AzureLLMInferenceTrace_conv.csv

The file is of github.com/Azure/AzurePublicDataset (CC BY 4.0): one hour of requests to a service of
language models, 2023-11-16. Kept is how many arrived in each fifteen seconds.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from foveate_loadtest.shapes import AZURE

BIN_S = 15


def main(trace: Annotated[Path, typer.Argument(exists=True)]) -> None:
    with trace.open(newline="") as file:
        times = [datetime.fromisoformat(row["TIMESTAMP"]) for row in csv.DictReader(file)]
    first = min(times)
    bins = Counter(int((time - first).total_seconds()) // BIN_S for time in times)
    whole = int((max(times) - first).total_seconds()) // BIN_S  # the last bin is not full
    series = {
        "source": "AzureLLMInferenceTrace_conv.csv, github.com/Azure/AzurePublicDataset",
        "licence": "CC BY 4.0, Microsoft; changed: counted",
        "bin_s": BIN_S,
        "counts": [bins[number] for number in range(whole)],
    }
    AZURE.write_text(json.dumps(series) + "\n")


if __name__ == "__main__":
    typer.run(main)
