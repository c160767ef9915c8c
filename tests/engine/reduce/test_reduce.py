"""Every reducer for itself: what stays, what becomes of the rest, and that nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate.reduce.merge import By, Merge
from foveate.reduce.pitome import energy
from foveate.reduce.prune import Fate, Prune, Score
from foveate.reduce.rows import Rows, Seen, reduce
from foveate_kernels.packed import DROPPED, FOLDED, uniform

DEPTH = 6


def rows_of(
    x: Tensor, sizes: Tensor | None = None, packaged: bool = False, prefix: int = 1
) -> Rows:
    """Images [B, n, C] as packed rows."""
    b, n, c = x.shape
    return Rows(x.reshape(b * n, c), uniform(b, n), n, packaged, sizes, prefix)


def seen_of(rows: Rows, heads: int = 2, seed: int = 0, **more: Any) -> Seen:
    """Random queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, len(rows.x), heads, 8, generator=generator).unbind()
    return Seen(q=q, k=k, v=v, depth=DEPTH, **more)


def judge(odds: list[float]) -> Any:
    """A selector that says the same of every image; one more number where there is a package."""
    return lambda x, packages: torch.tensor(odds[: x.shape[1]]).expand(len(x), -1)


reducers = st.one_of(
    st.builds(
        Prune,
        block=st.integers(0, DEPTH - 2),
        keep=st.integers(4, 30),
        fate=st.sampled_from(["drop", "package", "merge"]),
        score=st.sampled_from(["cls", "cls-value", "key", "mlp-shift", "selector", "random"]),
    ),
    st.builds(
        Prune,
        block=st.integers(0, DEPTH - 2),
        keep=st.integers(4, 30),
        fate=st.just("package-sum"),
        score=st.just("cls"),
    ),
    st.builds(
        Merge,
        block=st.integers(0, DEPTH - 2),
        remove=st.integers(1, 15),
        by=st.sampled_from(["tome", "pitome"]),
    ),
)


@settings(max_examples=60, derandomize=True)
@given(
    chain=st.lists(reducers, min_size=1, max_size=4),
    images=st.integers(1, 3),
    patches=st.integers(6, 32),
    prefix=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_no_token_is_lost_on_the_way(
    chain: list[Prune | Merge], images: int, patches: int, prefix: int, seed: int
) -> None:
    """Sizes sum to the patches that were not dropped, CLS, registers and the like stay first and as
    they were, and the maps account for every row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, prefix + patches, 16, generator=generator)
    rows = rows_of(x, prefix=prefix)
    first = x[:, :prefix]
    left = torch.full((images,), patches)
    for reducer in chain:
        n, packaged = rows.n, rows.packaged
        free = n - prefix
        if free - 1 - packaged < getattr(reducer, "keep", 0):
            continue
        if isinstance(reducer, Merge) and reducer.remove > min(free // 2, free - 4):
            continue
        sizes = torch.ones(images, n) if rows.sizes is None else rows.sizes.view(images, n)
        update = torch.randn(len(rows.x), 16, generator=generator)
        seen = seen_of(rows, seed=seed, update=update, selector=judge([*range(100)]))
        rows, dest = reduce(reducer, rows, seen, sized=True)

        assert rows.n == reducer.tokens(n, packaged, prefix)
        assert rows.packaged == reducer.packages(packaged)
        assert rows.x.shape == (images * rows.n, 16)
        assert rows.cu_seqlens.tolist() == [i * rows.n for i in range(images + 1)]
        assert rows.sizes is not None
        assert torch.equal(rows.x.view(images, rows.n, -1)[:, :prefix], first)
        dest = dest.view(images, n)
        left -= (sizes * (dest == DROPPED)).sum(1).long()
        torch.testing.assert_close(rows.sizes.view(images, -1).sum(1), float(prefix) + left)
        folded = bool((dest == FOLDED).any())
        for image in dest.tolist():
            assert {*image} - {DROPPED, FOLDED} == {*range(rows.n - folded)}
            assert image[:prefix] == [*range(prefix)]


@pytest.mark.parametrize("by", ["tome", "pitome"])
def test_an_image_merges_alone_as_among_others(by: By) -> None:
    x = torch.randn(5, 20, 16, generator=torch.Generator().manual_seed(1))
    together = seen_of(rows_of(x))
    reducer = Merge(block=1, remove=7, by=by)
    all_rows, _ = reduce(reducer, rows_of(x), together, sized=True)
    for i in range(5):
        part = slice(20 * i, 20 * i + 20)
        q, k, v = together.q[part], together.k[part], together.v[part]
        alone, _ = reduce(
            reducer, rows_of(x[i : i + 1]), Seen(q=q, k=k, v=v, depth=DEPTH), sized=True
        )
        torch.testing.assert_close(alone.x, all_rows.x.view(5, 13, -1)[i])


def with_keys(keys: list[list[float]]) -> Seen:
    """One head whose keys are given, for one image."""
    k = torch.tensor(keys, dtype=torch.float32).unsqueeze(1)
    return Seen(q=k, k=k, v=k, depth=DEPTH)


def test_tome_merges_the_most_similar_even_row_into_an_odd_one() -> None:
    x = torch.arange(14.0).view(1, 7, 2)
    #        CLS     1       2       3       4       5       6
    keys = [[0, 1], [1, 0], [1, 3], [0, 1], [9, 1], [3, 1], [1, 1]]
    rows, dest = reduce(
        Merge(block=0, remove=1),
        rows_of(x, sizes=torch.tensor([1.0, 3, 1, 1, 1, 1, 1])),
        with_keys(keys),
        sized=True,
    )
    # Row 4 is nearest to row 1, more than 2 to 3 or 6 to 5. What stays: 0 2 6, then 1 3 5.
    assert dest.tolist() == [0, 3, 1, 4, 3, 5, 2]
    assert rows.sizes is not None
    assert rows.sizes.tolist() == [1, 1, 1, 4, 1, 1]
    torch.testing.assert_close(rows.x[3], (3 * x[0, 1] + x[0, 4]) / 4)


def test_cls_never_merges_though_its_key_is_like_another() -> None:
    x = torch.randn(1, 9, 4)
    keys = [[0.0, 1.0]] * 2 + [[1.0, 0.1 * i] for i in range(7)]
    for by in ("tome", "pitome"):
        _, dest = reduce(Merge(block=0, remove=3, by=by), rows_of(x), with_keys(keys), sized=True)
        assert dest.tolist().count(0) == 1


def test_pitome_merges_the_crowd_and_leaves_the_rare() -> None:
    x = torch.randn(1, 9, 4)
    crowd, rare = [[1.0, 0.01 * i, 0.0] for i in range(5)], [[0.0, 1, 0], [0, -1, 0], [0, 0, 1]]
    keys = [[1.0, 0.0, 0.0], *rare, *crowd]
    _, dest = reduce(Merge(block=0, remove=2, by="pitome"), rows_of(x), with_keys(keys), sized=True)
    places = dest.tolist()
    assert places[:4] == [0, 1, 2, 3]
    assert len({*places[4:]}) == 3


def test_pitome_energy_follows_the_paper() -> None:
    cosine = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    expected = (1 + torch.tensor(0.5 - 0.9).exp() - 1) / 2
    torch.testing.assert_close(energy(cosine, 0.9), expected.expand(2))
    torch.testing.assert_close(energy(cosine, 0.4), torch.tensor([0.75, 0.75]))


def importance(rows: Rows, seen: Seen) -> Tensor:
    """Head mean of the CLS row of the attention matrix of one image, by definition."""
    logits = torch.einsum("hd,nhd->hn", seen.q[0], seen.k) * seen.q.shape[2] ** -0.5
    if rows.sizes is not None:
        logits = logits + rows.sizes.log()
    return logits.softmax(1).mean(0)


def test_evit_fuses_what_it_removes_by_attention() -> None:
    rows = rows_of(torch.randn(1, 12, 16))
    seen = seen_of(rows)
    after, _ = reduce(
        Prune(block=0, keep=5, fate="package-sum", score="cls"), rows, seen, sized=False
    )
    share = importance(rows, seen)
    best = share[1:].argsort(descending=True) + 1
    assert torch.equal(after.x[1:6], rows.x[best[:5].sort().values])
    gone = best[5:]
    torch.testing.assert_close(after.x[6], (share[gone, None] * rows.x[gone]).sum(0))


def test_spvit_packages_a_weighted_mean_and_folds_the_earlier_package() -> None:
    rows = rows_of(torch.randn(1, 12, 16), packaged=True)
    odds = [2.0, -3, -1, 4, 0, 5, -2, 1, 3, 6, 0.5]  # the last is of the package
    seen = seen_of(rows, selector=judge(odds))
    after, dest = reduce(
        Prune(block=0, keep=4, fate="package", score="selector"), rows, seen, sized=False
    )
    assert [i for i, place in enumerate(dest.tolist()) if place >= 0] == [0, 4, 6, 9, 10]
    gone = torch.tensor([1, 2, 3, 5, 7, 8, 11])
    weight = torch.tensor(odds)[gone - 1].sigmoid()
    torch.testing.assert_close(after.x[5], (weight[:, None] * rows.x[gone]).sum(0) / weight.sum())


def test_diffrate_merges_into_the_nearest_kept_token_by_size() -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, 9, (12,), generator=generator).float()
    sizes[0] = 1
    rows = rows_of(torch.randn(1, 12, 16, generator=generator), sizes=sizes)
    seen = seen_of(rows)
    after, _ = reduce(Prune(block=0, keep=5, fate="merge", score="cls"), rows, seen, sized=True)
    kept = importance(rows, seen)[1:].argsort(descending=True)[:5].sort().values + 1
    sums, weights = rows.x * sizes[:, None], sizes.clone()
    for i in sorted({*range(1, 12)} - {*kept.tolist()}):
        near = kept[torch.cosine_similarity(rows.x[i : i + 1], rows.x[kept]).argmax()]
        sums[near] += rows.x[i] * sizes[i]
        weights[near] += sizes[i]
    torch.testing.assert_close(after.x[1:], (sums / weights[:, None])[kept])
    assert after.sizes is not None
    assert torch.equal(after.sizes[1:], weights[kept])


def test_mlp_shift_keeps_what_the_mlp_moves() -> None:
    rows = rows_of(torch.randn(1, 10, 16))
    update = torch.randn(10, 16)
    update[[2, 5, 6, 9]] *= 50
    seen = seen_of(rows, update=update)
    reducer = Prune(block=0, keep=4, fate="drop", score="mlp-shift")
    after, _ = reduce(reducer, rows, seen, sized=False)
    assert torch.equal(after.x, rows.x[[0, 2, 5, 6, 9]])
    assert reducer.after == "mlp"


def test_chance_is_the_same_for_all_images_and_another_in_every_block() -> None:
    def kept(block: int) -> list[list[int]]:
        rows = rows_of(torch.randn(3, 101, 4))
        reducer = Prune(block=block, keep=40, fate="drop", score="random")
        _, dest = reduce(reducer, rows, seen_of(rows), sized=False)
        return (dest.view(3, 101) >= 0).int().tolist()

    first = kept(0)
    assert first[0] == first[1] == first[2]
    assert first == kept(0)
    assert first != kept(1)
    halves = sum(first[0][1:51]), sum(first[0][51:])
    assert min(halves) >= 12  # 20 are expected in each half


@pytest.mark.parametrize("fate", ["drop", "package", "merge"])
@pytest.mark.parametrize("score", ["cls", "cls-value", "mlp-shift", "selector", "random"])
def test_exactly_the_best_stay(fate: Fate, score: Score) -> None:
    """Whatever the fate of the others, and in their order."""
    rows = rows_of(torch.randn(2, 30, 16))
    seen = seen_of(
        rows, update=torch.randn(60, 16), selector=judge([i * 7 % 29 for i in range(29)])
    )
    reducer = Prune(block=1, keep=9, fate=fate, score=score)
    other = Prune(block=1, keep=9, fate="drop", score=score)
    _, dest = reduce(reducer, rows, seen, sized=False)
    _, dropped = reduce(other, rows, seen, sized=False)
    stays = dropped >= 0
    assert torch.equal(dest[stays], dropped[stays])
    assert torch.equal(dest.view(2, 30)[:, 0], torch.zeros(2, dtype=torch.int32))
