"""Grouping patches by visual word to an exact count."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.reduce.vwt_inter import group_by_word, group_under_threshold, learn_words, unmerge


@given(st.data())
def test_exactly_count_groups_remain(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 24))
    count = data.draw(st.integers(1, n))
    word = torch.tensor([data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))])
    distance = torch.tensor(
        [data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=n, max_size=n))]
    )
    groups = group_by_word(word, distance, count, 6)[0]
    assert sorted(groups.unique().tolist()) == list(range(count))
    distinct = len(word.unique())
    if distinct <= count:  # enough repeats to merge: a group never mixes words
        for group in range(count):
            assert len(word[0][groups == group].unique()) == 1


def test_the_nearest_patches_merge_first() -> None:
    word = torch.tensor([[0, 0, 0, 1, 1]])
    distance = torch.tensor([[0.1, 0.9, 0.2, 0.5, 0.6]])
    assert group_by_word(word, distance, 4, 2).tolist() == [[0, 1, 0, 2, 3]]
    assert group_by_word(word, distance, 3, 2).tolist() == [[0, 1, 0, 2, 2]]
    assert group_by_word(word, distance, 2, 2).tolist() == [[0, 0, 0, 1, 1]]
    assert group_by_word(word, distance, 1, 2).tolist() == [[0, 0, 0, 0, 0]]


def test_over_the_threshold_a_patch_is_alone() -> None:
    word = torch.tensor([[7, 2, 7, 2, 7], [3, 3, 3, 3, 3]])
    distance = torch.tensor([[0.05, 0.0, 0.3, 0.1, 0.1], [0.2, 0.2, 0.0, 0.2, 0.0]])
    groups, count = group_under_threshold(word, distance)
    # Words in their order, then the patches alone.
    assert groups.tolist() == [[1, 0, 2, 0, 1], [1, 2, 0, 3, 0]]
    assert count.tolist() == [3, 4]


@given(st.data())
def test_unmerging_gives_each_patch_the_mean_of_its_group(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 24))
    word = torch.tensor([data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))])
    near = st.sampled_from([0.0, 0.1, 0.2])
    distance = torch.tensor([data.draw(st.lists(near, min_size=n, max_size=n))])
    groups, count = group_under_threshold(word, distance)
    assert sorted(groups.unique().tolist()) == list(range(int(count)))
    values = torch.arange(float(n)).view(1, n, 1)
    members = torch.nn.functional.one_hot(groups[0]).float()
    tokens = (members.T @ values[0] / members.sum(0, keepdim=True).T).unsqueeze(0)
    back = unmerge(tokens, groups)[0, :, 0]
    for i in range(n):
        same = (word[0] == word[0, i]) & (distance[0] <= 0.1) & (distance[0, i] <= 0.1)
        same[i] = True
        torch.testing.assert_close(back[i], values[0, same, 0].mean())


def test_learned_words_are_reproducible_and_of_unit_length() -> None:
    patches = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    words = learn_words(patches, 8)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(8))
    assert torch.equal(words, learn_words(patches, 8))
