"""Measurements outlive the process that made them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.calibration.journal import Journal


@settings(max_examples=30)
@given(cut=st.integers(0, 60))
def test_a_journal_cut_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for key in "abc":
        journal.add(key, {"value": ord(key)})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")

    journal = Journal(path)
    assert journal.recalled == lines
    assert [key in journal for key in "abc"] == [i < lines for i in range(3)]
    for key in "abc":
        assert journal.once(key, lambda key=key: {"value": ord(key)}) == {"value": ord(key)}
    assert journal.added == 3 - lines
    journal.close()
    assert path.read_bytes() == whole
