"""Files become the pixels that the checkpoint's own pipeline makes of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import BadImage, ServerError
from foveate.images.decode import decode_image
from foveate.images.preprocess import Preprocess, read_preprocess


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (224, 224), (90, 400)])
@pytest.mark.parametrize(
    ("preprocess", "given"),
    [
        (
            Preprocess(resize=256, interpolation="bicubic"),
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
        ),
        (
            Preprocess(resize=(256, 256), interpolation="bicubic"),
            {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}},
        ),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_those_of_transformers(
    size: tuple[int, int], preprocess: Preprocess, given: dict[str, dict[str, int]], kind: str
) -> None:
    import transformers

    data = picture(*size, kind)
    ours = decode_image(data, 224, 224, preprocess)
    processor = transformers.CLIPImageProcessorPil(
        **given, do_rescale=False, do_normalize=False, do_convert_rgb=False
    )
    image = Image.open(io.BytesIO(data)).convert("RGB")
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.array_equal(ours, theirs)


def test_a_line_of_pixels_does_not_become_a_huge_image() -> None:
    with pytest.raises(BadImage, match=r"9000x1 pixels, resized to 2304000x256; the limit is"):
        decode_image(picture(9000, 1), 224, 224, Preprocess(resize=256))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(resize=256, interpolation="bicubic"),
        Preprocess(resize=(256, 240), interpolation="lanczos"),
    ],
)
def test_it_is_stated_in_config_pbtxt_and_read_from_there(
    tmp_path: Path, preprocess: Preprocess
) -> None:
    assert Preprocess.parse(preprocess.parameters) == preprocess
    lines = [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in preprocess.parameters.items()
    ]
    (tmp_path / "own_decode").mkdir()
    (tmp_path / "own_decode" / "config.pbtxt").write_text("".join(lines))
    assert read_preprocess(tmp_path / "own") == preprocess
    assert read_preprocess(tmp_path / "other") == Preprocess()


@pytest.mark.parametrize(
    ("key", "value"), [("resize", "0"), ("resize", "256x"), ("interpolation", "hamming")]
)
def test_a_bad_parameter_is_named(tmp_path: Path, key: str, value: str) -> None:
    config = tmp_path / "own_decode" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')
    with pytest.raises(ServerError, match=f"{key}='{value}'") as failure:
        read_preprocess(tmp_path / "own")
    assert str(config) in str(failure.value)
