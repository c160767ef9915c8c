"""The errors the load test raises on purpose.

LoadtestError         a foveate.errors.FoveateError
├── ScheduleError   arrivals that cannot be generated, or an unusable arrival file
├── TargetError     the server or its adapter does not answer as the test needs
├── SenderError     the sending process failed; carries the end of its log
└── ResultsError    existing results come from other inputs
"""

from __future__ import annotations

from foveate.errors import FoveateError

__all__ = ["LoadtestError", "ResultsError", "ScheduleError", "SenderError", "TargetError"]


class LoadtestError(FoveateError):
    """Base class of all errors raised on purpose."""


class ScheduleError(LoadtestError):
    """Arrivals that cannot be generated, or an unusable arrival file."""


class TargetError(LoadtestError):
    """The server or its adapter does not answer as the test needs."""


class SenderError(LoadtestError):
    """The sending process failed; carries the end of its log."""


class ResultsError(LoadtestError):
    """Existing results come from other inputs."""
