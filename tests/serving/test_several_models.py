"""Two models on one server: the demo's and an imported one, each with ladder, SLO and policy word
of its own; and what stock clients expect of an imported model."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from safetensors.torch import save_file

from foveate.accuracy.measure import measure
from foveate.control.policy import PolicyReader, policy_path
from foveate.images.decode import decode_image
from foveate.images.labelled_folder import MIN_IMAGES, class_names
from foveate.images.pairs import load_pair
from foveate.images.preprocess import Preprocess, read_preprocess
from foveate.importers.entry import Placement
from foveate.importers.importer import Wishes, import_checkpoint
from foveate.importers.source import find_source
from foveate.inference.runtime import Runtime
from foveate.model.vit import load_vit
from foveate_loadtest.bench.pictures import gather
from foveate_loadtest.choices import Protocol, Shape, Target
from foveate_loadtest.classes import ask_classes
from foveate_loadtest.errors import TargetError
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.shapes import shape_schedule

NAMES = ["tench", "goldfish", "great white shark", "hen"]
CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "global_pool": "token",
    "model_args": {"patch_size": 32, "num_heads": 2},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "label_names": NAMES,
    },
}


def checkpoint(folder: Path) -> Path:
    """A small ViT of 224 pixels, as timm puts it on the hub."""
    d, mlp = 64, 128
    shapes = {
        "cls_token": (1, 1, d), "pos_embed": (1, 50, d), "patch_embed.proj.weight": (d, 3, 32, 32),
        "patch_embed.proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,),
        "head.weight": (4, d), "head.bias": (4,),
    }  # fmt: skip
    for block in range(3):
        for name, shape in {
            "norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d),
            "mlp.fc1": (mlp, d), "mlp.fc2": (d, mlp),
        }.items():  # fmt: skip
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
    torch.manual_seed(0)
    folder.mkdir()
    weights = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def served(
    start_server: Callable[..., Any], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("several")
    both = shutil.copytree(repository, folder / "models")
    source = find_source(str(checkpoint(folder / "checkpoint")))
    import_checkpoint(source, both, "fish", Wishes(placement=Placement(decoders=3)))
    with (both / "fish" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "precision" value { string_value: "fp32" } }\n')
    served = start_server(repository=both)
    served.await_ready()
    yield served
    served.stop()


def photo(seed: int = 5) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_model_may_state_its_precision(served: Any) -> None:
    text = httpx.get(f"http://{served.metrics}/metrics").text
    told = {line.split('model="')[1].split('"')[0]: line for line in text.splitlines()
            if line.startswith("foveate_build_info") and 'component="model"' in line}  # fmt: skip
    assert 'precision="fp32"' in told["fish"]
    precision = Runtime.choose().precision
    assert f'precision="{precision}"' in told["digits"]
    assert 'executor="OpenVINO' in told["digits"]


def test_a_file_goes_through_the_checkpoints_own_preprocessing(served: Any) -> None:
    client = tritonclient.http.InferenceServerClient(served.http)
    tensor = tritonclient.http.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[photo()]], dtype=np.object_))
    answer = client.infer("fish_classify", [tensor])
    vit = load_vit(served.repository / "fish" / "1" / "model.safetensors")
    way = Preprocess(resize=256, interpolation="bicubic")
    pixels = torch.from_numpy(decode_image(photo(), 224, 224, way).copy()).unsqueeze(0)
    expected = vit.scores(vit(pixels))
    np.testing.assert_allclose(answer.as_numpy("SCORES"), expected.numpy(), atol=1e-5)
    assert answer.as_numpy("LEVEL").tolist() == [[0]]


def test_several_decoders_share_the_files(served: Any) -> None:
    """None may take several at once while the others have nothing to do."""
    client = tritonclient.http.InferenceServerClient(served.http, concurrency=12)
    tensor = tritonclient.http.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[photo()]], dtype=np.object_))
    ahead = [client.async_infer("fish_classify", [tensor]) for _ in range(12)]
    scores = [answer.get_result().as_numpy("SCORES") for answer in ahead]
    for own in scores[1:]:
        np.testing.assert_allclose(own, scores[0], atol=1e-5)
    (decoding,) = client.get_inference_statistics("fish_decode")["model_stats"]
    assert [batch["batch_size"] for batch in decoding["batch_stats"]] == [1]
    (server,) = served.children("tritonserver")
    stubs = served.children(r"triton_python_backend_stub .*fish_decode/", of=server)
    assert len(stubs) == 3


def test_pixels_are_served_as_image_client_wants(served: Any) -> None:
    """What Triton's stock image_client checks of a model, and how it asks."""
    client = tritonclient.grpc.InferenceServerClient(served.grpc)
    metadata = client.get_model_metadata("fish_pixels")
    config = client.get_model_config("fish_pixels").config
    (given,), (wanted,) = metadata.inputs, metadata.outputs
    assert wanted.datatype == "FP32"
    assert [edge for edge in wanted.shape if edge > 1] == [-1, 4] or list(wanted.shape) == [-1, 4]
    assert config.max_batch_size > 0
    assert len(given.shape) == 4
    assert list(given.shape[1:]) == [224, 224, 3]
    assert config.input[0].Format.Name(config.input[0].format) == "FORMAT_NHWC"

    tensor = tritonclient.grpc.InferInput(given.name, [2, 224, 224, 3], given.datatype)
    tensor.set_data_from_numpy(np.full((2, 224, 224, 3), 90, dtype=np.uint8))
    output = tritonclient.grpc.InferRequestedOutput(wanted.name, class_count=3)
    answer = client.infer("fish_pixels", [tensor], outputs=[output]).as_numpy(wanted.name)
    assert answer.shape == (2, 3)
    for row in answer:
        for text in row:
            score, index, label = text.decode().split(":")
            assert 0 <= float(score) <= 1
            assert NAMES[int(index)] == label


def test_each_model_has_ladder_slo_and_policy_of_its_own(
    served: Any, eventually: Callable[..., None]
) -> None:
    api = httpx.Client(base_url=f"http://{served.adapter}")
    views = {view["name"]: view for view in api.get("/v1/models").json()}
    assert views.keys() == {"digits", "fish"}
    assert len(views["digits"]["levels"]) > len(views["fish"]["levels"]) == 1
    words = {name: PolicyReader(policy_path(served.run_dir, name)) for name in views}

    api.put("/v1/models/fish/slo", json={"latency_ms": 750}).raise_for_status()
    api.put("/v1/models/digits/pin", json={"level": 2}).raise_for_status()

    def apart() -> bool:
        fish, digits = words["fish"].read(), words["digits"].read()
        assert fish is not None
        assert digits is not None
        return (
            (fish.slo_ns, digits.slo_ns) == (750_000_000, 200_000_000)
            and (digits.dearest, digits.cheapest) == (2, 2)
            and fish.dearest == 0
        )

    eventually(apart, "policies of their own")
    assert level(served, "digits", 96) == 2
    assert level(served, "fish", 224) == 0
    api.delete("/v1/models/digits/pin").raise_for_status()


@pytest.mark.parametrize("protocol", Protocol)
def test_the_server_names_its_classes_in_the_order_of_the_head(
    served: Any, protocol: Protocol
) -> None:
    host = served.grpc if protocol is Protocol.GRPC else served.http
    assert ask_classes(host, protocol, "fish") == (4, tuple(NAMES))
    with pytest.raises(TargetError, match=r"127\.0\.0\.1:.*'bird'"):
        ask_classes(host, protocol, "bird")


@torch.inference_mode()
def test_a_labelled_folder_means_the_same_to_everybody(served: Any, tmp_path: Path) -> None:
    """Each image is filed under the class the model gives it, so whoever reads the folder rightly
    finds every answer right. ``labels.txt`` is not in alphabetical order."""
    model, folder = served.repository / "fish", tmp_path / "images"
    assert class_names(model) == NAMES != sorted(NAMES)
    vit, way = load_vit(model / "1" / "model.safetensors"), read_preprocess(model)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
    for seed in range(MIN_IMAGES):
        pixels = decode_image(photo(seed), 224, 224, way)
        answer = int(vit(torch.from_numpy(pixels.copy()).unsqueeze(0)).argmax())
        (folder / NAMES[answer] / f"{seed}.jpg").write_bytes(photo(seed))

    # calibrate, compress
    for half in load_pair(model, vit.config, folder, max_images=MIN_IMAGES, seed=0):
        assert half.labels is not None
        assert half.labels.tolist() == vit(half.pixels).argmax(1).tolist()
    assert [row.top1 for row in measure(model, folder)] == [1.0]  # bench accuracy
    pictures = gather(str(folder), tmp_path, model)  # bench serve
    assert (pictures.target, pictures.count) == (Target.CLASSIFY, MIN_IMAGES)
    report = run(  # loadtest, and bench serve again
        LoadtestConfig(
            server=served.grpc,
            schedule=shape_schedule(Shape.STEADY, MIN_IMAGES, 1.0, cv2=0.0),
            slo_ms=10_000,
            model="fish",
            target=pictures.target,
            image_set=pictures.source,
            images=pictures.count,
            ladder=LadderFacts.from_file(model / "1" / "ladder.json"),
        )
    )
    assert (report.attainment, report.measured_quality) == (1.0, 1.0), report.messages


def level(served: Any, model: str, edge: int) -> int:
    client = tritonclient.http.InferenceServerClient(served.http)
    tensor = tritonclient.http.InferInput("PIXELS", [1, edge, edge, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, edge, edge, 3), dtype=np.uint8))
    return int(client.infer(model, [tensor]).as_numpy("LEVEL")[0, 0])
