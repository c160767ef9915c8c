"""What an import writes, where it finds files, and what it refuses, naming it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig

from foveate.errors import FoveateError, InputError, ServerError
from foveate.images.preprocess import Preprocess, read_preprocess
from foveate.importers.entry import Placement
from foveate.importers.importer import Wishes, import_checkpoint
from foveate.importers.source import find_source
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.ladder import Ladder
from foveate.repository import SUFFIXES, check_repository, gpus_named
from foveate.usable_cpus import default_decoders, usable_cpus

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 3,
    "global_pool": "token",
    "model_args": {"img_size": 32, "num_heads": 2},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "label_names": ["a", "b", "c"],
        "label_descriptions": {"a": "an apple"},
    },
}


def weights(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tiny ViT as timm calls it."""
    shapes = {
        "cls_token": (1, 1, 32), "pos_embed": (1, 5, 32), "norm.weight": (32,), "norm.bias": (32,),
        "patch_embed.proj.weight": (32, 3, 16, 16), "patch_embed.proj.bias": (32,),
        "head.weight": (3, 32), "head.bias": (3,),
        "blocks.0.norm1.weight": (32,), "blocks.0.norm1.bias": (32,),
        "blocks.0.norm2.weight": (32,), "blocks.0.norm2.bias": (32,),
        "blocks.0.attn.qkv.weight": (96, 32), "blocks.0.attn.qkv.bias": (96,),
        "blocks.0.attn.proj.weight": (32, 32), "blocks.0.attn.proj.bias": (32,),
        "blocks.0.mlp.fc1.weight": (64, 32), "blocks.0.mlp.fc1.bias": (64,),
        "blocks.0.mlp.fc2.weight": (32, 64), "blocks.0.mlp.fc2.bias": (32,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    } | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as timm puts it on the hub."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    save_file(weights(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def bring(source: Path | str, repository: Path, **wishes: Any) -> Any:
    return import_checkpoint(find_source(str(source)), repository, "own", Wishes(**wishes))


def refused(source: Path | str, repository: Path, **wishes: Any) -> str:
    """The message; nothing may be left in the repository or beside it."""
    before = {*repository.parent.iterdir()}
    with pytest.raises(FoveateError) as failure:
        bring(source, repository, **wishes)
    assert {*repository.parent.iterdir()} - before <= {repository}
    assert not repository.exists() or not [*repository.iterdir()]
    return str(failure.value)


def test_an_entry_has_everything_a_server_and_calibrate_need(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    bring(folder, repository)
    names = ["own", "own_classify", "own_decode", "own_explain", "own_pixels"]
    assert sorted(path.name for path in repository.iterdir()) == names
    assert check_repository(repository) == ("own", "own_decode")
    assert (repository / "own" / "labels.txt").read_text() == "an apple\nb\nc\n"
    config = (repository / "own" / "config.pbtxt").read_text()
    assert 'key: "mean" value { string_value: "0.4 0.5 0.6" }' in config
    assert read_preprocess(repository / "own") == Preprocess(resize=35, interpolation="bicubic")
    ladder = Ladder.load(repository / "own" / "1" / "ladder.json")
    assert [level.name for level in ladder.levels] == ["dense"]
    assert ladder.levels[0].quality.n == 0
    assert ReferenceEngine(PreparedLadder.load(repository / "own" / "1")).config.classes == 3


@pytest.mark.parametrize(
    ("wishes", "images"), [({}, 16), ({"placement": Placement(max_batch=128)}, 128)]
)
def test_all_its_models_take_batches_of_one_size(
    folder: Path, tmp_path: Path, wishes: dict[str, Placement], images: int
) -> None:
    bring(folder, tmp_path, **wishes)
    for suffix in SUFFIXES:
        config = (tmp_path / f"own{suffix}" / "config.pbtxt").read_text()
        assert f"\nmax_batch_size: {images}\n" in config


def command(folder: Path, repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``foveate import`` as a user types it."""
    main = [sys.executable, "-m", "foveate_cli.main", "import", str(folder), "--name=own"]
    return subprocess.run(
        [*main, f"--repository={repository}", *options], capture_output=True, text=True, check=False
    )


def written(repository: Path) -> dict[str, ModelConfig]:
    """The configurations of an entry as the server reads them, by ending."""
    texts = {s: (repository / f"own{s}" / "config.pbtxt").read_text() for s in SUFFIXES}
    return {suffix: text_format.Parse(text, ModelConfig()) for suffix, text in texts.items()}


def test_an_entry_for_a_gpu_names_it_and_decodes_on_the_cpus(folder: Path, tmp_path: Path) -> None:
    done = command(folder, tmp_path / "models", "--gpu=3", "--max-batch=32", "--decoders=7")
    assert done.returncode == 0, done.stderr
    assert "served on GPU 3 in batches of up to 32; decoders: 7" in done.stdout
    configs = written(tmp_path / "models")
    (group,), (decoding,) = configs[""].instance_group, configs["_decode"].instance_group
    assert (group.kind, group.count, [*group.gpus]) == (group.KIND_GPU, 1, [3])
    assert (decoding.kind, decoding.count, [*decoding.gpus]) == (group.KIND_CPU, 7, [])
    assert {config.max_batch_size for config in configs.values()} == {32}
    assert gpus_named(tmp_path / "models") == {"own": (3,)}
    # Batches for the GPU of whatever waits; each file to a decoder that is free.
    assert configs[""].HasField("dynamic_batching")
    assert configs[""].dynamic_batching.max_queue_delay_microseconds == 0
    assert not configs["_decode"].HasField("dynamic_batching")


def test_what_is_not_asked_for_goes_by_the_device_and_the_cpus(
    folder: Path, tmp_path: Path
) -> None:
    for name, options, on_gpu, batch in (("cpu", [], False, 16), ("gpu", ["--gpu=0"], True, 32)):
        done = command(folder, tmp_path / name, "--json", *options)
        decoders = default_decoders(usable_cpus(), on_gpu=on_gpu)
        placement = {"gpu": 0 if on_gpu else None, "max_batch": batch, "decoders": decoders}
        assert json.loads(done.stdout)["serving"] == placement
        configs = written(tmp_path / name)
        assert configs["_classify"].max_batch_size == batch
        assert configs["_decode"].instance_group[0].count == decoders


@pytest.mark.parametrize(
    ("option", "stated"),
    [
        ("--gpu=-1", "gpu=-1: expected 0 or more"),
        ("--max-batch=0", "max_batch=0: expected 1..128"),
        ("--max-batch=129", "max_batch=129: expected 1..128"),
        ("--decoders=0", "decoders=0: expected 1..256"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(
    folder: Path, tmp_path: Path, option: str, stated: str
) -> None:
    done = command(folder, tmp_path / "models", option)
    assert done.returncode == 1
    assert stated in done.stderr
    assert not (tmp_path / "models").exists()


def test_weights_are_mapped_not_copied(folder: Path, tmp_path: Path) -> None:
    bring(folder, tmp_path / "models")
    file = tmp_path / "models" / "own" / "1" / "model.safetensors"
    engine = ReferenceEngine(PreparedLadder.load(file.parent))
    assert str(file) in Path("/proc/self/maps").read_text()
    kept = load_file(file)["head.weight"]
    assert torch.equal(engine.levels[0].vit.head.weight, kept)


def test_shards_pickles_and_half_precision_are_read_alike(folder: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in weights().items()}
    (folder / "model.safetensors").unlink()
    torch.save(half, folder / "pytorch_model.bin")
    bring(folder, tmp_path / "pickled")
    (folder / "pytorch_model.bin").unlink()
    names = list(half)
    for index, part in enumerate((names[:7], names[7:])):
        save_file({name: half[name] for name in part}, folder / f"part-{index}.safetensors")
    index = {"weight_map": {n: f"part-{int(i >= 7)}.safetensors" for i, n in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    bring(folder, tmp_path / "sharded")
    written = [
        load_file(tmp_path / kind / "own" / "1" / "model.safetensors")
        for kind in ("pickled", "sharded")
    ]
    assert all(torch.equal(tensor, written[1][name]) for name, tensor in written[0].items())
    assert {tensor.dtype for tensor in written[0].values()} == {torch.float32}


def test_the_hub_is_read_from_its_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files lie as huggingface_hub lays them out; its own code finds them, offline."""
    snapshot = tmp_path / "hub" / "models--somebody--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("hf-hub:somebody/tiny", f"hf-hub:somebody/tiny@{'a' * 40}"):
        repository = tmp_path / name.replace("/", "_").replace(":", "_")
        bring(name, repository)
        assert check_repository(repository) == ("own", "own_decode")
    with pytest.raises(InputError, match=r"hf-hub:somebody/else: cannot fetch"):
        find_source("hf-hub:somebody/else")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.norm2.bias": None}, "key 'blocks.0.norm2.bias' is missing"),
        ({"extra.weight": torch.zeros(3)}, "unexpected keys.*extra.weight"),
        ({"head.weight": torch.zeros(3, 40)}, r"head.weight: shape \[3, 40\], expected \[3, 32\]"),
        ({"head.weight": torch.zeros(4, 32), "head.bias": torch.zeros(4)}, "labels: 3 names.*of 4"),
        ({"norm.bias": torch.full((32,), torch.nan)}, "norm.bias: holds NaN"),
        ({"pos_embed": torch.zeros(1, 8, 32)}, "position embeddings: 8"),
        ({"head.bias": torch.zeros(3, dtype=torch.int64)}, "head.bias: torch.int64"),
        ({"head.weight": None}, "key 'head.weight' is missing"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed = {name: t for name, t in (weights() | change).items() if t is not None}
    save_file(changed, folder / "model.safetensors")
    assert re.search(message, refused(folder, tmp_path / "models"))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet50", "architecture='resnet50': expected vit_"),
        ("swin_tiny_patch4_window7_224", "swin_tiny.*hierarchical"),
        ("pit_xs_224", "pit_xs_224.*hierarchical"),
        ("efficientformer_l1", "efficientformer_l1.*hierarchical"),
        ("vit_base_patch16_rpn_224", "blocks of the original ViT"),
    ],
)
def test_other_architectures_are_refused_by_name(
    folder: Path, tmp_path: Path, architecture: str, message: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architecture": architecture}))
    assert re.search(message, refused(folder, tmp_path / "models"))


def test_an_architecture_writes_nothing_but_its_name(folder: Path, tmp_path: Path) -> None:
    evil = 'vit_tiny" } }\nparameters { key: "more" value { string_value: "1'
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architecture": evil}))
    assert "expected vit_" in refused(folder, tmp_path / "models")


def test_texts_that_a_configuration_states_are_escaped(folder: Path, tmp_path: Path) -> None:
    renamed = folder.rename(folder.with_name('a"b\\c\nd'))
    bring(renamed, tmp_path / "models")
    stated = (tmp_path / "models" / "own" / "config.pbtxt").read_text()
    parameters = text_format.Parse(stated, ModelConfig()).parameters
    assert parameters["source"].string_value == str(renamed).replace("\n", "_")


def test_a_label_is_one_line(folder: Path, tmp_path: Path) -> None:
    message = refused(folder, tmp_path / "models", labels=["a", "b\nc", "d"])
    assert "labels: 'b\\nc': expected no line break" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3, "model_args": {"embed_dim": 32}}, "embed_dim=32 without num_heads"),
        ({"pretrained_cfg": {"crop_pct": -1}}, "crop_pct=-1.0: expected more than 0"),
        ({"pretrained_cfg": {"input_size": [3, 64]}}, "input_size=.3, 64.: expected channels"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "cannot read its configuration: ValueError"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "NaN or infinity"),
        ({"pretrained_cfg": {"input_size": [3, 64, 64]}}, "of 2x2 patches for images of 64x64"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    assert re.search(message, refused(folder, tmp_path / "models"))


@pytest.mark.parametrize(
    ("arguments", "given", "size"),
    [
        ({}, {"input_size": [3, 64, 64]}, 64),
        ({"img_size": 64}, {"input_size": [3, 32, 32], "fixed_input_size": True}, 64),
        ({"img_size": [64, 64]}, {"input_size": [3, 32, 32], "fixed_input_size": True}, 64),
        ({"img_size": 64, "dynamic_img_size": True}, {"input_size": [3, 32, 32]}, 32),
    ],
)
def test_sizes_are_read_as_timm_reads_them(
    folder: Path, tmp_path: Path, arguments: Any, given: Any, size: int
) -> None:
    """``_parse_model_cfg`` of timm 1.0.31; what is missing is bicubic, and 0.875 of the image."""
    save_file(weights(pos_embed=torch.zeros(1, 17, 32)), folder / "model.safetensors")
    changed = {**CONFIG, "model_args": {"num_heads": 2, **arguments}, "pretrained_cfg": given}
    (folder / "config.json").write_text(json.dumps(changed))
    imported = bring(folder, tmp_path / "models")
    assert (imported.config.height, imported.config.width) == (size, size)
    assert imported.preprocess == Preprocess(resize=int(size / 0.875), interpolation="bicubic")


def test_a_resnet_is_no_vit(tmp_path: Path) -> None:
    file = tmp_path / "resnet.pth"
    torch.save(
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.bias": torch.zeros(9)}, file
    )
    assert "not those of a known Vision Transformer" in refused(file, tmp_path / "models")


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "evil.pth"
    torch.save({"model": weights(), "args": Evil()}, file)
    assert "could run code" in refused(file, tmp_path / "models")
    assert not (tmp_path / "ran").exists()


def test_a_bare_state_dict_says_what_was_assumed(tmp_path: Path) -> None:
    torch.save({"model": weights()}, tmp_path / "bare.pth")
    message = refused(tmp_path / "bare.pth", tmp_path / "models")
    assert "embed_dim=32: unknown number of heads" in message


@pytest.mark.parametrize(
    ("positions", "change"),
    [
        (1 + 16, {}),
        (
            16,
            {"cls_token": None, "fc_norm.weight": torch.ones(192), "fc_norm.bias": torch.ones(192)},
        ),
        (16, {}),  # no position for CLS
        (1 + 4 + 16, {"reg_token": torch.zeros(1, 4, 192)}),
        (16, {"reg_token": torch.zeros(1, 4, 192)}),
    ],
)
def test_the_size_of_a_bare_state_dict_is_that_of_its_positions(
    tmp_path: Path, positions: int, change: dict[str, Any]
) -> None:
    wide = {
        name: torch.zeros([edge * 6 if edge in (32, 96) else edge for edge in tensor.shape])
        for name, tensor in weights().items()
    }
    wide |= {"pos_embed": torch.zeros(1, positions, 192), **change}
    if "cls_token" in change:
        wide = {name: tensor for name, tensor in wide.items() if not name.startswith("norm.")}
    torch.save({k: t for k, t in wide.items() if t is not None}, tmp_path / "bare.pth")
    imported = bring(tmp_path / "bare.pth", tmp_path / "models")
    assert (imported.config.height, imported.config.patches) == (64, 16)


def test_positions_that_are_no_square_are_refused(tmp_path: Path) -> None:
    torch.save(weights(pos_embed=torch.zeros(1, 19, 32)), tmp_path / "bare.pth")
    message = refused(tmp_path / "bare.pth", tmp_path / "models")
    assert "position embeddings: 19, expected a square" in message


def test_a_name_that_is_taken_or_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    bring(folder, repository)
    before = (repository / "own" / "1" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"name='own': already taken by .*models/own"):
        bring(folder, repository)
    assert (repository / "own" / "1" / "model.safetensors").read_bytes() == before
    for name in ("own_decode", "../own", "", "a b"):
        with pytest.raises(InputError, match="name="):
            import_checkpoint(find_source(str(folder)), repository, name)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "height=40: expected a multiple of patch=16" in refused(folder, tmp_path / "m", size=40)


def test_another_size_keeps_the_proportion_of_the_crop(folder: Path, tmp_path: Path) -> None:
    imported = bring(folder, tmp_path / "models", size=64)
    assert imported.preprocess == Preprocess(resize=70, interpolation="bicubic")
    assert imported.config.patches == 16


def test_what_a_kill_leaves_is_never_served(folder: Path, tmp_path: Path) -> None:
    """The process dies in the middle of writing: the repository holds nothing, and works."""
    repository = tmp_path / "models"
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from foveate.importers.importer import import_checkpoint\n"
        "from foveate.importers.source import find_source\n"
        "kill = lambda stage, done, total: done > 5 and os._exit(9)\n"
        "import_checkpoint(find_source(sys.argv[1]), Path(sys.argv[2]), 'own', progress=kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, repository], check=False)
    assert done.returncode == 9
    assert [*repository.iterdir()] == []
    bring(folder, repository)
    assert check_repository(repository) == ("own", "own_decode")


def test_what_fails_between_two_renames_is_taken_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up, or somebody presses Ctrl-C: a fault that cannot be timed otherwise."""
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == tmp_path / "models" / "own":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert "No space left on device" in refused(folder, tmp_path / "models")


def test_a_kill_between_two_renames_is_named(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    bring(folder, repository)
    import_checkpoint(find_source(str(folder)), repository, "other")
    for suffix in reversed(SUFFIXES):  # as they are renamed, the classifier last
        (repository / f"own{suffix}").rename(tmp_path / f"own{suffix}")
    assert check_repository(repository) == ("other", "other_decode")
    for suffix in reversed(SUFFIXES[1:]):
        (tmp_path / f"own{suffix}").rename(repository / f"own{suffix}")
        with pytest.raises(ServerError, match=r"its model 'own.*' is missing; delete"):
            check_repository(repository)
    (tmp_path / "own").rename(repository / "own")
    assert "own" in check_repository(repository)


def test_a_repository_may_be_here_or_a_link(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another file system than the link: /dev/shm."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "link").symlink_to(elsewhere)
        bring(folder, tmp_path / "link")
        assert check_repository(tmp_path / "link") == ("own", "own_decode")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bring(folder, Path())
    assert check_repository(Path()) == ("own", "own_decode")


def test_a_repository_may_be_a_mount(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into which nothing can be renamed from beside it. Nobody may mount in a test, so it is
    pretended; a server that starts meanwhile is told what it sees."""
    repository, rename, seen = tmp_path / "models", Path.rename, []

    def across(self: Path, target: Path) -> Path:
        if repository in target.parents and repository not in self.parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    def look(*_: object) -> None:
        with pytest.raises(ServerError, match="Wait if an import is running"):
            check_repository(repository)
        seen.append(True)

    monkeypatch.setattr(Path, "rename", across)
    import_checkpoint(find_source(str(folder)), repository, "own", progress=look)
    assert seen
    assert check_repository(repository) == ("own", "own_decode")


def test_zero_shot_heads_need_names_and_prompts_a_place(
    checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    clip = checkpoint("CLIP-T/16-224").folder
    assert "expected --labels" in refused(clip, tmp_path / "models")
    message = refused(clip, tmp_path / "models", labels=["hen"], prompts=["a photo"])
    assert "prompt='a photo'" in message


def test_prompts_are_averaged(checkpoint: Callable[[str], Any], tmp_path: Path) -> None:
    """The head of two prompts is the mean of both alone, brought to their length."""
    clip, heads = checkpoint("CLIP-T/16-224").folder, []
    asked = (["a {}"], ["of {}"], ["a {}", "of {}"])
    for number, prompts in enumerate(asked):
        repository = tmp_path / str(number)
        bring(clip, repository, labels=["hen", "cock"], prompts=prompts)
        heads.append(load_file(repository / "own" / "1" / "model.safetensors")["head.weight"])
    mean = (heads[0] + heads[1]) / 2
    expected = mean * (heads[0].norm(dim=1) / mean.norm(dim=1)).unsqueeze(1)
    torch.testing.assert_close(heads[2], expected)


def test_it_takes_less_than_twice_the_checkpoint(tmp_path: Path) -> None:
    """Of memory beyond what libraries take; the benchmark does it at the size of ViT-L."""
    wide = {name: tensor for name, tensor in weights().items() if not name.startswith("blocks")}
    shapes = {name: tensor.shape for name, tensor in weights().items() if name.startswith("blocks")}
    block = {name.removeprefix("blocks.0."): shape for name, shape in shapes.items()}
    big = dict(wide)
    scale = 24  # 32 -> 768
    for name, tensor in wide.items():
        edges = [edge * scale if edge == 32 else edge for edge in tensor.shape]
        big[name] = torch.zeros(edges)
    for index in range(12):
        for name, shape in block.items():
            big[f"blocks.{index}.{name}"] = torch.zeros([edge * scale for edge in shape])
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file(big, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    size = (folder / "model.safetensors").stat().st_size
    code = (
        "import re, sys\nfrom pathlib import Path\n"
        "from foveate.importers.importer import import_checkpoint\n"
        "from foveate.importers.source import find_source\n"
        # Not getrusage, whose maximum is also that of the process this one was forked from.
        "status = Path('/proc/self/status')\n"
        "most = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "before = most()\n"
        "import_checkpoint(find_source(sys.argv[1]), Path(sys.argv[2]), 'own')\n"
        "print(most() - before)\n"
    )
    command = [sys.executable, "-c", code, folder, tmp_path / "models"]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size < taken < 2 * size  # it is mapped, and read
