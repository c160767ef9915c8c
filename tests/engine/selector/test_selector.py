"""The token selector: scores, decisions, masks, packages, losses, tables, phases, its file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError, WeightsError
from foveate.model.vit import ViT, ViTConfig
from foveate.reduce.selector_file import load_selectors, save_selectors
from foveate.reduce.selector_network import Selector
from foveate.selector.blocktable import BlockTable, read_block_table
from foveate.selector.budget import MIN_TOKENS, fit_counts, geometric
from foveate.selector.decision import decide, package
from foveate.selector.losses import latency_loss, ratio_loss
from foveate.selector.masked import masked_attention, masked_forward
from foveate.selector.phases import insert_selectors, merge_phases
from foveate.selector.pruned import by_attention, by_selector, pruned_forward

CONFIG = ViTConfig(height=32, width=32, dim=32, depth=4, heads=2, mlp_dim=64)  # 16 patches
LINEAR = BlockTable((1, 17), (1.0, 17.0))  # a millisecond a token


def model(seed: int = 0) -> tuple[ViT, dict[int, Selector]]:
    torch.manual_seed(seed)
    vit = ViT(CONFIG).eval().requires_grad_(False)
    for parameter in vit.parameters():
        parameter.normal_(std=0.3)
    selectors = {block: Selector(CONFIG) for block in (1, 2)}
    for selector in selectors.values():
        for weight in selector.parameters():
            torch.nn.init.normal_(weight, std=0.7)
    return vit, selectors


def some_pixels(images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(images)
    return torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("shared", "parameters"), [(True, 1824), (False, 7230)])
def test_selector_gives_one_log_odds_per_token(shared: bool, parameters: int) -> None:
    selector = Selector(ViTConfig(), shared).eval()
    x = torch.randn(3, 20, 128)
    log_odds = selector(x)
    assert (log_odds.shape, log_odds.dtype) == ((3, 20), torch.float32)
    assert torch.equal(log_odds, selector(x))
    assert sum(p.numel() for p in selector.parameters()) == parameters


def test_packages_stay_for_certain_and_count_in_the_mean() -> None:
    selector, x = Selector(CONFIG), torch.randn(2, 9, 32)
    plain, with_package = selector(x), selector(x, 1)
    assert torch.equal(plain[:, :-1], with_package[:, :-1])
    assert with_package[:, -1].isposinf().all()


def test_scores_are_the_weighted_mean_of_heads_in_log_space() -> None:
    _, selectors = model()
    selector, x = selectors[1], torch.randn(2, 5, 32)
    total = torch.zeros(2, 5, 2)
    weights = selector.excite(x.unflatten(2, (2, 16)).mean(3))
    for head in range(2):
        logits = selector.scorers[0](x[..., 16 * head : 16 * (head + 1)], None)
        total += weights[..., head, None] * logits.log_softmax(-1)
    total /= weights.sum(2, keepdim=True)
    torch.testing.assert_close(selector(x), total[..., 0] - total[..., 1])


def test_dropped_tokens_do_not_reach_the_scores_of_others() -> None:
    _, selectors = model()
    x, alive = torch.randn(1, 8, 32), torch.tensor([[1.0, 1, 0, 1, 0, 1, 1, 1]])
    kept = alive[0].bool()
    torch.testing.assert_close(selectors[1](x, 0, alive)[:, kept], selectors[1](x[:, kept]))


@given(seed=st.integers(0, 2**31), mates=st.integers(1, 6))
@settings(max_examples=20)
def test_an_image_scores_the_same_whatever_its_batch_mates(seed: int, mates: int) -> None:
    _, selectors = model()
    x = torch.randn(1 + mates, 12, 32, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(selectors[1](x)[:1], selectors[1](x[:1]))


def test_shift_moves_every_log_odds_alike() -> None:
    for shared in (True, False):
        selector, x = Selector(CONFIG, shared), torch.randn(2, 6, 32)
        before = selector(x)
        selector.shift(0.75)
        torch.testing.assert_close(selector(x), before + 0.75)


def test_decisions_are_progressive_and_follow_the_probability() -> None:
    log_odds = torch.full((100, 100), 1.0)
    alive = torch.ones(100, 100)
    alive[:, :20] = 0
    drawn = decide(log_odds, alive, torch.Generator().manual_seed(0))
    assert drawn[:, :20].eq(0).all()
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert drawn[:, 20:].mean().item() == pytest.approx(
        torch.tensor(1.0).sigmoid().item(), abs=0.02
    )
    assert torch.equal(decide(log_odds, alive, None), alive)
    assert decide(-log_odds, alive, None).eq(0).all()


def test_drawn_decisions_have_a_gradient_whichever_way_they_fell() -> None:
    log_odds = torch.zeros(1, 50, requires_grad=True)
    drawn = decide(log_odds, torch.ones(1, 50), torch.Generator().manual_seed(0))
    drawn.sum().backward()
    assert 0 < drawn.sum() < 50
    assert (log_odds.grad > 0).all()


def test_masked_attention_with_everything_alive_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 2, 11, 8)
    torch.testing.assert_close(
        masked_attention(q, k, v, torch.ones(2, 11)),
        F.scaled_dot_product_attention(q, k, v),
        atol=1e-5,
        rtol=1e-5,
    )


@given(mask=st.lists(st.booleans(), min_size=9, max_size=9), seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_masked_attention_of_the_living_does_not_see_the_dropped(
    mask: list[bool], seed: int
) -> None:
    alive = torch.tensor([True, *mask])
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 2, 10, 8, dtype=torch.float64, generator=generator)
    # What eps adds is the more, the less a row looks at what is left; so here it is next to none.
    masked = masked_attention(q, k, v, alive.double()[None], eps=1e-12)
    plain = F.scaled_dot_product_attention(q[:, :, alive], k[:, :, alive], v[:, :, alive])
    torch.testing.assert_close(masked[:, :, alive], plain, atol=1e-6, rtol=1e-6)
    # A dropped token sees itself and the living.
    for i in (~alive).nonzero().flatten().tolist():
        seen = alive.clone()
        seen[i] = True
        own = F.scaled_dot_product_attention(q[:, :, [i]], k[:, :, seen], v[:, :, seen])
        torch.testing.assert_close(masked[:, :, [i]], own, atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 1000), sharpness=st.sampled_from([1.0, 4.0, 16.0]))
@settings(max_examples=30)
def test_the_gradient_of_a_dropped_token_is_the_change_by_its_return(
    seed: int, sharpness: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v, wanted = torch.randn(4, 1, 2, 10, 8, generator=generator).double()
    alive = torch.tensor([[1.0] * 6 + [0.0] * 4]).double().requires_grad_()
    (masked_attention(sharpness * q, k, v, alive, eps=0.0) * wanted).sum().backward()
    assert alive.grad is not None
    for token in range(6, 10):
        returned = alive.detach().clone()
        returned[0, token] = 1
        before, after = (
            masked_attention(sharpness * q, k, v, mask, eps=0.0)
            for mask in (alive.detach(), returned)
        )
        change = ((after - before) * wanted).sum()
        torch.testing.assert_close(alive.grad[0, token], change, atol=1e-9, rtol=1e-6)


def test_package_is_the_weighted_mean() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]])
    weight = torch.tensor([[0.25, 0.75, 0.0]])
    assert package(x, weight, "package").tolist() == [[[2.5, 1.5]]]
    assert package(x, 2 * weight, "package").tolist() == [[[2.5, 1.5]]]
    assert package(x, 2 * weight, "package-sum").tolist() == [[[5.0, 3.0]]]
    assert package(x, 0 * weight, "package").tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("fate", ["drop", "package", "package-sum"])
def test_training_and_serving_compute_the_same(fate: str) -> None:
    """A masked pass by threshold equals a pruned pass that removes as many tokens."""
    vit, selectors = model()
    pixels = some_pixels(1)
    everything = pruned_forward(vit, pixels, {1: 16, 2: 16}, by_selector(selectors))
    for block, log_odds in everything.ranks.items():
        selectors[block].shift(-log_odds.median().item() - 1e-3 * block)
    masked = masked_forward(vit, selectors, pixels, fate=fate)  # type: ignore[arg-type]
    counts = {block: int(alive.sum()) for block, alive in masked.alive.items()}
    assert 0 < counts[2] < counts[1] < 16
    pruned = pruned_forward(vit, pixels, counts, by_selector(selectors), fate)  # type: ignore[arg-type]
    torch.testing.assert_close(pruned.logits, masked.logits, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_first_selector_through_the_answer() -> None:
    vit, selectors = model()
    masked = masked_forward(vit, selectors, some_pixels(), torch.Generator().manual_seed(0))
    masked.logits.square().sum().backward()
    for selector in selectors.values():
        grads = [p.grad for p in selector.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads)
        assert any(grad.abs().sum() > 0 for grad in grads if grad is not None)


def test_pruning_nothing_is_the_plain_model_and_kept_tokens_are_the_best() -> None:
    vit, selectors = model()
    pixels = some_pixels()
    plain = pruned_forward(vit, pixels, {}, by_attention)
    torch.testing.assert_close(plain.logits, vit(pixels), atol=1e-5, rtol=1e-5)
    pruned = pruned_forward(vit, pixels, {1: 9, 2: 5}, by_selector(selectors))
    best = pruned.ranks[1].topk(9).indices.sort(1).values
    assert torch.equal(pruned.positions[2], best)


def test_ratio_loss_pulls_towards_the_ratio() -> None:
    for share, sign in ((0.9, 1), (0.1, -1)):
        alive = torch.full((2, 16), share, requires_grad=True)
        ratio_loss({1: alive}, {1: 0.5}).backward()
        assert (alive.grad.sign() == sign).all()


def test_latency_loss_pushes_tokens_out_only_above_the_budget() -> None:
    alive = {1: torch.full((2, 16), 0.9, requires_grad=True), 2: torch.ones(2, 16) * 0.5}
    latency_loss(alive, LINEAR, 4, budget_ms=20).backward()
    assert (alive[1].grad > 0).all()
    assert latency_loss(alive, LINEAR, 4, budget_ms=70) == 0


def test_times_of_a_model_are_those_of_its_blocks() -> None:
    assert LINEAR.model_ms({}, 4, 16) == pytest.approx(4 * 17)
    # Block 1: its attention at 17 tokens, a third, its MLP at 9.
    assert LINEAR.model_ms({1: 8}, 4, 16) == pytest.approx(17 + 17 / 3 + 9 * 2 / 3 + 2 * 9)


@given(
    budget=st.floats(20, 67),
    shape=st.dictionaries(st.integers(0, 3), st.floats(0.05, 0.95), min_size=1, max_size=3),
)
@settings(max_examples=25)
def test_counts_fit_the_budget_and_fall(budget: float, shape: dict[int, float]) -> None:
    try:
        counts = fit_counts(LINEAR, shape, 4, 16, budget)
    except InputError:
        fewest = {b: MIN_TOKENS + len(shape) - 1 - i for i, b in enumerate(sorted(shape))}
        assert LINEAR.model_ms(fewest, 4, 16) > budget
        return
    assert LINEAR.model_ms(counts, 4, 16) <= budget
    kept = [16, *(counts[block] for block in sorted(shape))]
    assert all(MIN_TOKENS <= after < before for before, after in pairwise(kept))


@pytest.mark.parametrize("budget", [5, 68, 1000])
def test_a_budget_out_of_range_is_refused_naming_the_range(budget: float) -> None:
    with pytest.raises(InputError, match=r"budget_ms=\d+: expected a number from \d+.* below 68"):
        fit_counts(LINEAR, geometric((1, 2)), 4, 16, budget)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "row 1: header=''"),
        ("tokens;ms\n1;2\n", "row 1: header='tokens;ms', expected 'tokens,ms'"),
        ("tokens,ms\n1,1\n2\n", "row 3: 1 columns"),
        ("tokens,ms\n1.5,1\n", "row 2: tokens='1.5': expected a whole number above 0"),
        ("tokens,ms\n1,0\n", "row 2: ms='0': expected a number above 0"),
        ("tokens,ms\n1,nan\n", "row 2: ms='nan'"),
        ("tokens,ms\n4,1\n4,2\n", "row 3: tokens=4: expected more than 4"),
        ("tokens,ms\n17,1\n", "1 rows of tokens,ms: expected at least 2"),
        ("tokens,ms\n1,1\n16,2\n", "row 3: tokens=16: the last row must reach the model's 17"),
    ],
)
def test_a_table_that_is_none_is_refused_naming_row_and_column(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "phone.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_block_table(path, 17)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_table_is_read_and_interpolated(tmp_path: Path) -> None:
    path = tmp_path / "phone.csv"
    path.write_text("tokens,ms\n5,1.0\n9,2.0\n17,6.0\n")
    times = read_block_table(path, 17)
    assert [times.at(n) for n in (1, 5, 7, 9, 13, 17)] == pytest.approx([1, 1, 1.5, 2, 4, 6])


def test_selectors_are_inserted_from_deep_to_shallow_while_they_cost_little() -> None:
    tried: list[dict[int, float]] = []

    def score(plan: dict[int, float]) -> float:
        tried.append(dict(plan))
        return 1 - sum({0: 1.0, 1: 0.02, 2: 0.01}[b] * (1 - r) for b, r in plan.items())

    plan = insert_selectors(4, score, max_drop=0.012, ratios=(0.9, 0.5, 0.3))
    # Block 2 may keep 0.3 (a loss of 0.007), block 1 then 0.9 (of 0.002 more), block 0 nothing.
    assert plan == {1: 0.9, 2: 0.3}
    assert tried[:2] == [{}, {2: 0.9}]


def test_similar_neighbours_are_one_phase() -> None:
    assert merge_phases({1: 0.75, 2: 0.7, 3: 0.5, 5: 0.5}) == pytest.approx(
        {1: 0.725, 3: 0.5, 5: 0.5}
    )


def test_selectors_survive_their_file(tmp_path: Path) -> None:
    for shared in (True, False):
        selectors = {1: Selector(CONFIG, shared), 3: Selector(CONFIG, shared)}
        save_selectors(tmp_path / "s", selectors, {1: 8, 3: 4})
        loaded = load_selectors(tmp_path / "s", CONFIG)
        x = torch.randn(2, 6, 32)
        assert loaded.keys() == selectors.keys()
        assert all(torch.equal(loaded[b](x), selectors[b](x)) for b in loaded)
        assert not any(p.requires_grad for p in loaded[1].parameters())


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(WeightsError, match="cannot read"):
        load_selectors(path, CONFIG)
    save_selectors(path, {3: Selector(CONFIG)})
    with pytest.raises(WeightsError, match=r"blocks: 3 is not in 0\.\.1"):
        load_selectors(path, ViTConfig(depth=2))
    with pytest.raises(WeightsError, match="selector of block 3"):
        load_selectors(path, ViTConfig())
