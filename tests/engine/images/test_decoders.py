"""Files on a GPU become the pixels that Pillow makes of them, or the same refusal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveate.errors import BadImage, ServerError
from foveate.images import nvjpeg
from foveate.images.decode import Pixels, decode_images
from foveate.images.decoders import choose_decoder
from foveate.images.nvjpeg import resize

TIMM = Path(__file__).parents[3] / ".timm"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BICUBIC = {"resize": "256", "interpolation": "bicubic", "decoder": "nvjpeg"}


def file(size: tuple[int, int], mode: str = "RGB", kind: str = "JPEG") -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def played(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
    """What nvJPEG does, by the library of Pillow: it raises for all if one cannot be decoded."""

    def decode(files: list[Tensor]) -> list[Tensor]:
        pictures = []
        for data in files:
            try:
                image = Image.open(io.BytesIO(data.numpy().tobytes())).convert("RGB")
            except OSError as error:
                raise RuntimeError("nvJPEG says no") from error
            pictures.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))
        return pictures

    return decode


def apart(ours: Sequence[Pixels | Exception], theirs: Sequence[Pixels | Exception]) -> int:
    most = 0
    for own, other in zip(ours, theirs, strict=True):
        assert isinstance(own, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert own.dtype == np.uint8
        assert own.shape == other.shape
        most = max(most, int(np.abs(own.astype(int) - other.astype(int)).max()))
    return most


@pytest.mark.parametrize(
    ("parameters", "device", "message"),
    [
        ({"decoder": "gpu"}, CPU, "decoder='gpu': expected pillow or nvjpeg"),
        ({"decoder": "nvjpeg"}, CPU, "decoder='nvjpeg': expected instance_group .*KIND_GPU"),
        (
            {"decoder": "nvjpeg", "interpolation": "lanczos"},
            GPU,
            "interpolation='lanczos': expected bilinear or bicubic with decoder=nvjpeg",
        ),
        ({"decoder": "nvjpeg", "resize": "x"}, GPU, "resize='x': expected"),
    ],
)
def test_what_cannot_decode_is_refused_at_the_start(
    parameters: dict[str, str], device: torch.device, message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        choose_decoder(parameters, 224, 224, device)


def test_without_torchvision_or_gpu_nvjpeg_is_refused_and_the_reason_given() -> None:
    """Torchvision is not part of our environment; where it is, there is no such GPU."""
    absent = torch.device("cuda", torch.cuda.device_count())
    with pytest.raises(ServerError, match=r"decoder='nvjpeg': torch\S* .*(installed|CPUs|GPU)"):
        choose_decoder({"decoder": "nvjpeg"}, 224, 224, absent)


def test_a_torchvision_that_does_not_fit_torch_is_refused() -> None:
    if not (TIMM / "torchvision").exists():
        pytest.skip("torchvision is not installed: foveate_benchmarks.hierarchical.timm_models")
    if torch.version.cuda is not None:
        pytest.skip("torchvision fits this torch, which is a build for GPUs")
    script = (
        "import torch\nfrom foveate.images.decoders import choose_decoder\n"
        "choose_decoder({'decoder': 'nvjpeg'}, 224, 224, torch.device('cuda', 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(TIMM)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert "ServerError: decoder='nvjpeg': torchvision cannot be imported: " in last


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "to"),
    [((640, 480), (341, 256)), ((500, 375), (224, 224)), ((100, 80), (320, 256)), ((9, 9), (9, 9))],
)
def test_a_resize_is_pillows_but_for_one_level(
    size: tuple[int, int], to: tuple[int, int], interpolation: str
) -> None:
    """Also of noise, where bicubic weights overshoot."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    way = Image.Resampling[interpolation.upper()]
    theirs = np.asarray(Image.fromarray(noise).resize(to, way)).astype(int)
    ours = resize(torch.from_numpy(noise).permute(2, 0, 1), to[1], to[0], interpolation)
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1


def test_a_batch_of_files_is_decoded_in_order_by_whoever_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvjpeg, "open_decoder", played)
    decoder = choose_decoder(BICUBIC, 224, 224, GPU)
    assert isinstance(decoder, nvjpeg.NvJpeg)
    files = [
        file((300, 200)),
        file((300, 200), kind="PNG"),
        file((90, 400), mode="L"),
        file((224, 500), mode="CMYK"),
        file((1000, 700)),
    ]
    theirs = decode_images(files, 224, 224, decoder._preprocess)
    assert apart(decoder(files), theirs) <= 1
    assert decoder([]) == []
    many: list[int] = []
    decode = decoder._decode
    decoder._decode = lambda given: many.append(len(given)) or decode(given)  # type: ignore[func-returns-value]
    decoder(files)
    assert many == [3]  # at once


def test_a_bad_file_fails_alone_with_what_pillow_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "open_decoder", played)
    decoder = choose_decoder(BICUBIC, 224, 224, GPU)
    whole = file((300, 200))
    files = [whole, whole[: len(whole) // 2], b"", file((9000, 1), kind="JPEG"), whole]
    first, cut, empty, line, last = decoder(files)
    assert [type(each) for each in (cut, empty, line)] == [BadImage] * 3
    assert "truncated" in str(cut)
    assert "resized to 2304000x256" in str(line)
    assert apart([first, last], decode_images([whole] * 2, 224, 224, decoder._preprocess)) == 0  # type: ignore[attr-defined]


def test_a_decoder_that_is_wrong_or_fails_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def inverted(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
        return lambda files: [255 - picture for picture in played(device)(files)]

    def failing(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
        def decode(files: list[Tensor]) -> list[Tensor]:
            raise RuntimeError("not compiled with nvJPEG support")

        return decode

    for decoder, message in ((inverted, "differs from pillow by"), (failing, "not compiled with")):
        monkeypatch.setattr(nvjpeg, "open_decoder", decoder)
        with pytest.raises(ServerError, match=f"decoder='nvjpeg': {message}"):
            choose_decoder(BICUBIC, 224, 224, GPU)
