"""Everything the load test raises on purpose.

LoadtestError         a foveate.errors.FoveateError
├── ScheduleError   arrivals that cannot be made, or an arrival file that cannot be used
├── TargetError     the server or its adapter does not answer as the test needs
├── SenderError     the sending process failed; carries the end of its log
└── ResultsError    results that are there already are of other inputs
"""

from __future__ import annotations

from foveate.errors import FoveateError

__all__ = ["LoadtestError", "ResultsError", "ScheduleError", "SenderError", "TargetError"]


class LoadtestError(FoveateError):
    """Base of all errors raised on purpose."""


class ScheduleError(LoadtestError):
    """Arrivals that cannot be made, or an arrival file that cannot be used."""


class TargetError(LoadtestError):
    """The server or its adapter does not answer as the test needs."""


class SenderError(LoadtestError):
    """The sending process failed; carries the end of its log."""


class ResultsError(LoadtestError):
    """Results that are there already are of other inputs."""
