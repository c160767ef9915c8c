"""Long commands say on standard error how far they are."""

from __future__ import annotations

import pytest

from foveate_cli.progress import bars


def test_a_stage_is_complete_when_the_next_begins_or_all_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with bars() as tell:
        tell("time blocks", 0, 1)
        tell("insert selectors: 0.5 agrees", 3, 0)
        tell("distil: loss 0.9", 1, 4)
        tell("distil: loss 0.5", 2, 4)
    blocks, selectors, distil = capsys.readouterr().err.splitlines()[-3:]
    assert "time blocks" in blocks
    assert "1/1" in blocks
    assert "3/?" in selectors
    assert "0.5 agrees" in selectors
    assert "4/4" in distil
    assert "loss 0.5" in distil
