"""What commands do on a GPU: times of blocks, energy, and files that nvJPEG decodes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.devices import choose_device
from foveate.images.decode import decode_images
from foveate.images.decoders import choose_decoder
from foveate.images.preprocess import Preprocess
from foveate.inference.block_times import measure_blocks
from foveate.inference.energy import energy_counter, image_joules
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Runtime

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def prepared(repository: Path) -> PreparedLadder:
    return PreparedLadder.load(repository / "digits" / "1")


def test_what_calibrates_answers_as_a_cpu_does(prepared: PreparedLadder) -> None:
    engine = Runtime.choose(device=choose_device("cuda")).engine(prepared, (4,))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8, generator=generator)
    own, expected = (e.infer(pixels, [0, 0, 0]).scores for e in (engine, ReferenceEngine(prepared)))
    torch.testing.assert_close(own, expected, atol=0.05, rtol=0)


def test_blocks_are_timed_in_a_graph(prepared: PreparedLadder) -> None:
    runtime = Runtime.choose(device=choose_device("cuda"))
    vit = prepared.levels[0].vit
    times = measure_blocks(vit, 2, runtime, points=3, rounds=2, clock=runtime.clock)
    assert 0 < times.attention[0][0] <= times.attention[0][-1]


def test_an_image_takes_energy(prepared: PreparedLadder) -> None:
    device = choose_device("cuda")
    engine = Runtime.choose(device=device).engine(prepared, (8,))
    read = energy_counter(device)
    if read is None:
        pytest.skip("this GPU has no counter of its energy, or nvidia-ml-py is not installed")
    assert image_joules(engine, 0, 8, read) > 0


def test_nvjpeg_decodes_as_pillow_does() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=ImportError)
    way = Preprocess(resize=256, interpolation="bicubic")
    decoder = choose_decoder(
        {**way.parameters, "decoder": "nvjpeg"}, 224, 224, choose_device("cuda")
    )
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    files = []
    for size, mode in (((640, 480), "RGB"), ((300, 401), "L"), ((500, 375), "RGB")):
        buffer = io.BytesIO()
        smooth = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
        smooth.convert(mode).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    for own, other in zip(decoder(files), decode_images(files, 224, 224, way), strict=True):
        assert isinstance(own, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert np.abs(own.astype(int) - other.astype(int)).max() <= 16
