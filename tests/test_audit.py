"""``make check`` where the advisories cannot be had, and where the audit itself breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("HTTPError: 503 Server Error: Unavailable for url: x", 0, "NOTHING WAS AUDITED"),
        ("ConnectionError: Could not connect to PyPI's feed", 0, "NOTHING WAS AUDITED"),
        ("HTTPError: 403 Client Error: Forbidden for url: x", 1, "pip-audit failed"),
    ],
)
def test_no_answer_of_pypi_is_no_failure(tmp_path: Path, error: str, code: int, said: str) -> None:
    """The auditor is played: PyPI cannot be made to fail."""
    (tmp_path / "pip_audit.py").write_text(f"import sys\nsys.exit({error!r})\n")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
