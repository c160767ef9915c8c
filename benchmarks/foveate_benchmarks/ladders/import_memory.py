"""How much memory the import of a large checkpoint takes: ViT-L/16-384, in timm's format.

    python -m foveate_benchmarks.ladders.import_memory

In a process of its own, which tells the most memory it ever had: libraries, the mapped checkpoint
and all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from foveate.model.vit import ViT, ViTConfig
from foveate_benchmarks.results import conclude

CONFIG = {
    "architecture": "vit_large_patch16_384",
    "global_pool": "token",
    "pretrained_cfg": {"input_size": [3, 384, 384], "crop_pct": 1.0, "interpolation": "bicubic"},
}
_IMPORT = r"""
import json, re, sys
from pathlib import Path
from foveate.importers.importer import import_checkpoint
from foveate.importers.source import find_source
# Not getrusage, whose maximum is also that of the process this one was forked from.
status = Path("/proc/self/status")
most = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
before = most()
import_checkpoint(find_source(sys.argv[1]), Path(sys.argv[2]), "model")
print(json.dumps({"before": before, "most": most()}))
"""


def main() -> None:
    shape = ViTConfig(
        height=384, width=384, patch=16, dim=1024, depth=24, heads=16, mlp_dim=4096, classes=1000
    )
    with torch.device("meta"):
        names = ViT(shape).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        checkpoint.mkdir()
        file = checkpoint / "model.safetensors"
        save_file({name: torch.rand(tensor.shape) for name, tensor in names.items()}, file)
        (checkpoint / "config.json").write_text(json.dumps(CONFIG))
        command = [sys.executable, "-c", _IMPORT, str(checkpoint), f"{folder}/models"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken = {"checkpoint": file.stat().st_size, **json.loads(done.stdout)}
    checks = {"under twice the checkpoint": taken["most"] < 2 * taken["checkpoint"]}
    print(f"{taken['most'] / taken['checkpoint']:.2f} times the checkpoint")
    conclude("import_memory", checks, model="ViT-L/16-384", **taken)


if __name__ == "__main__":
    main()
