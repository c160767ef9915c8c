"""Everything the engine raises on purpose.

FoveateError
├── LadderError       a ladder or latency file that cannot be used; names file and key
├── WeightsError      a checkpoint that cannot be used; names file and tensor
├── CompressError     images or settings that a compression cannot use; names range and value
├── TrainingError     images, a table, a budget or a setting that training cannot use
├── CalibrationError  images, labels or settings that a calibration cannot use
├── PolicyError       a policy word that cannot be created or written
│   └── PolicyTaken   another adapter publishes it
├── ServerError       the Triton server could not be found, started or kept alive
└── RequestError      one request is wrong; its batch mates are not affected
    ├── BadImage      bytes that are not an image we serve
    ├── BadMessage    a policy message that is not genuine, well formed, fresh or next in turn
    └── BadWish       a ``level``, ``quality`` or ``deadline_ms`` we cannot honour
"""

from __future__ import annotations

__all__ = [
    "BadImage",
    "BadMessage",
    "BadWish",
    "CalibrationError",
    "CompressError",
    "FoveateError",
    "LadderError",
    "PolicyError",
    "PolicyTaken",
    "RequestError",
    "ServerError",
    "TrainingError",
    "WeightsError",
]


class FoveateError(Exception):
    """Base of all errors raised on purpose."""


class LadderError(FoveateError):
    """A ladder or latency file that cannot be used."""


class WeightsError(FoveateError):
    """A checkpoint that cannot be used."""


class CompressError(FoveateError):
    """Images or settings that a compression cannot use."""


class TrainingError(FoveateError):
    """Images, a table, a budget or a setting that training cannot use; names it and the range."""


class CalibrationError(FoveateError):
    """Images, labels or settings that a calibration cannot use."""


class PolicyError(FoveateError):
    """A policy word that cannot be created or written."""


class PolicyTaken(PolicyError):
    """A policy word that another adapter publishes."""


class ServerError(FoveateError):
    """The Triton server could not be found, started or kept alive."""


class RequestError(FoveateError):
    """One request is wrong; its batch mates are not affected."""


class BadImage(RequestError):
    """Bytes that are not an image we serve."""


class BadMessage(RequestError):
    """A policy message that is not genuine, well formed, fresh or next in turn."""


class BadWish(RequestError):
    """A ``level``, ``quality`` or ``deadline_ms`` we cannot honour."""
