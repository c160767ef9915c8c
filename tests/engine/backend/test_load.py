"""Reading a version folder: what does not fit together is refused before it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from foveate.errors import LadderError
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig, save_vit

CONFIG = ViTConfig(height=32, width=32, patch=8, dim=32, depth=3, heads=2, mlp_dim=64)
WORDS = [{"kind": "vwt-inter", "count": 9}]
ASKS = [{"kind": "prune", "block": 1, "keep": 6, "fate": "drop", "score": "selector"}]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder(reducers, vocabulary=..., selector=...)``: a version folder with such a level."""
    torch.manual_seed(0)
    save_vit(ViT(CONFIG), tmp_path / "model.safetensors")

    def make(reducers: list[dict[str, Any]], **files: str) -> Path:
        levels = []
        for name, items in (("dense", []), ("cheap", reducers)):
            schedule = Schedule.parse(items, CONFIG)
            levels.append(
                Level(
                    name=name,
                    reducers=schedule.dump(),
                    weights="model.safetensors",
                    vocabulary=files.get("vocabulary"),
                    tokens=tuple(schedule.tokens(CONFIG)[1]),
                    macs=schedule.macs(CONFIG),
                    quality=Quality(top1=None, agreement=1.0, n=1),
                    selector=files.get("selector"),
                )
            )
        ladder = Ladder(model="toy", image_size=(32, 32), tokens=17, levels=tuple(levels))
        ladder.save(tmp_path / "ladder.json")
        return tmp_path

    return make


def test_a_vocabulary_of_another_patch_size_is_refused(folder: Callable[..., Path]) -> None:
    path = folder(WORDS, vocabulary="words.safetensors")
    save_file({"words": torch.randn(20, 3 * 16 * 16)}, path / "words.safetensors")
    with pytest.raises(
        LadderError, match=r"vocabulary='words.*768 numbers, expected 192"
    ) as failure:
        ReferenceEngine(PreparedLadder.load(path))
    assert "ladder.json: level 'cheap'" in str(failure.value)
    save_file({"words": torch.randn(20, 192)}, path / "words.safetensors")
    assert ReferenceEngine(PreparedLadder.load(path)).levels[1].words is not None


def test_words_need_a_vocabulary(folder: Callable[..., Path]) -> None:
    with pytest.raises(LadderError, match="vocabulary=null"):
        ReferenceEngine(PreparedLadder.load(folder(WORDS)))


def test_a_level_that_asks_a_selector_names_one_that_has_its_block(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LadderError, match="selector=null"):
        ReferenceEngine(PreparedLadder.load(folder(ASKS)))
    path = folder(ASKS, selector="selectors.safetensors")

    def load_selectors(file: Path, config: ViTConfig) -> dict[int, Any]:
        assert (file, config) == (path / "selectors.safetensors", CONFIG)
        return known

    monkeypatch.setattr("foveate.inference.prepared.load_selectors", load_selectors)
    known: dict[int, Any] = {2: None}
    with pytest.raises(
        LadderError, match=r"selector='selectors.*no selector for block 1, only for 2"
    ):
        ReferenceEngine(PreparedLadder.load(path))
    known = {1: lambda x, packages: x.mean(2)}
    engine = ReferenceEngine(PreparedLadder.load(path))
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    where = engine.infer(pixels, [1], token_map=True).token_map
    assert where is not None
    assert int((where >= 0).sum()) == 6
