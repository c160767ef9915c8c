"""The reduced hierarchical models compute what they say they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_benchmarks.hierarchical import pit, swin, timm_models
from foveate_benchmarks.hierarchical.efficientformer import compress

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def build() -> Callable[..., Any]:
    """A model of timm whose every weight, biases of attention included, matters."""

    def made(name: str, **changes: Any) -> Any:
        try:
            model = timm_models.build(name, **changes)
        except ImportError:
            pytest.skip("timm is not installed: foveate_benchmarks.hierarchical.timm_models")
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return made


@pytest.fixture(scope="module")
def small_swin(build) -> Any:
    return build(
        "swin_tiny_patch4_window7_224", img_size=112, depths=(2, 2, 2), num_heads=(1, 2, 4),
        embed_dim=16, num_classes=5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small_pit(build) -> Any:
    return build("pit_xs_224", base_dims=(16, 16, 16), depth=(2, 1, 1), num_classes=5)


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4))


def rows_seen(model: Any, run: Callable[[], object]) -> list[int]:
    """Tokens that pass through each MLP of a model, over a batch."""
    seen: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, args, __: seen.append(args[0][..., 0].numel()))
        for name, module in model.named_modules()
        if name.endswith("mlp")
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_with_nothing_removed_swin_is_the_plain_swin(small_swin) -> None:
    x = images(112)
    everything = swin.kept_everything(small_swin)
    assert [(k.windows, k.tokens) for k in everything] == [(16, 49), (4, 49), (1, 49)]
    with torch.inference_mode():
        assert_close(swin.forward(small_swin, x, everything), small_swin(x))


def test_swin_computes_the_windows_and_tokens_it_keeps(small_swin) -> None:
    x = images(112)
    keep = [swin.Keep(16, 30), swin.Keep(3, 49), swin.Keep(1, 7)]
    seen = rows_seen(small_swin, lambda: swin.forward(small_swin, x, keep))
    assert seen == [2 * 16 * 30] * 2 + [2 * 3 * 49] * 2 + [2 * 7] * 2
    with torch.inference_mode():
        both = swin.forward(small_swin, x, keep)
        assert_close(torch.cat([swin.forward(small_swin, one[None], keep) for one in x]), both)


def test_packed_attention_knows_who_sits_where(small_swin) -> None:
    """Choosing all 49 tokens in another order must not change what each of them gets."""
    block = small_swin.layers[0].blocks[1]
    assert any(block.shift_size), "the shifted block is the harder one"
    x = torch.randn(16, 49, 16, generator=torch.Generator().manual_seed(5))
    position = swin._layout(block.input_resolution, block.window_size, block.shift_size)
    place = torch.arange(49).expand(16, 49)
    order = torch.randperm(49, generator=torch.Generator().manual_seed(6))[:48]
    rest = torch.tensor(sorted(set(range(49)) - set(order.tolist())))
    order = torch.cat([order, rest])
    plain = swin._attention(block, x, position, place)
    block.window_area = 50  # take the path of packed windows though all are there
    try:
        mixed = swin._attention(block, x[:, order], position[:, order], place[:, order])
    finally:
        block.window_area = 49
    assert_close(mixed, plain[:, order])


def test_with_nothing_removed_pit_is_the_plain_pit(small_pit) -> None:
    x = images(224)
    assert pit.grids(small_pit) == [729, 196, 49]
    with torch.inference_mode():
        assert_close(pit.forward(small_pit, x, [729, 196, 49]), small_pit(x))


def test_pit_computes_the_tokens_it_keeps_and_pools_the_others_as_they_were(small_pit):
    x, pooled = images(224), []
    first = small_pit.transformers[1].pool
    hook = first.register_forward_hook(lambda _, args, __: pooled.append(args[0]))
    seen = rows_seen(small_pit, lambda: pit.forward(small_pit, x, [300, 100, 20]))
    hook.remove()
    assert seen == [2 * 301] * 2 + [2 * 101, 2 * 21]
    before = small_pit.patch_embed(x) + small_pit.pos_embed
    untouched = (pooled[0] == before).all(1).flatten(1).sum(1)
    assert untouched.tolist() == [729 - 300] * 2


def test_a_stage_takes_the_selector_it_is_given(small_pit) -> None:
    x = images(224)
    counts = [300, 100, 20]
    raster = [lambda tokens: torch.arange(tokens.shape[1]).expand(len(tokens), -1).float()] * 3
    assert not torch.equal(
        pit.forward(small_pit, x, counts, raster), pit.forward(small_pit, x, counts)
    )


def test_neurons_of_efficientformer_are_removed_not_masked(build) -> None:
    model = build("efficientformer_l1", num_classes=5)
    x = images(224)
    with torch.inference_mode():
        assert_close(compress(model, x, hidden=1, pairs=1, values=1)(x), model(x))
        half = compress(model, x, hidden=0.5, pairs=0.5, values=0.5)
        assert half(x).shape == (2, 5)
    widths = [len(m.fc1.weight) for n, m in half.named_modules() if n.endswith("mlp")]
    assert widths == [96] * 3 + [192] * 2 + [448] * 6 + [896] * 4
    mixer = half.stages[-1].blocks[-1].token_mixer
    assert mixer.qkv.weight.shape == (8 * (16 + 16 + 64), 448)
    assert mixer.proj.weight.shape == (448, 8 * 64)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-2, "the inputs decide the answer"
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.std()))
