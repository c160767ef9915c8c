"""The errors the engine raises on purpose.

FoveateError
├── LadderError       a ladder or latency file that cannot be used; names file and key
├── WeightsError      a checkpoint that cannot be used; names file and tensor
├── InputError        images, labels, tables or settings that a command cannot use; names key,
│                     value and range
├── PolicyError       a policy word that cannot be created or written
│   └── PolicyTaken   another adapter publishes it
├── ServerError       the Triton server could not be found, started or kept alive
└── RequestError      one request is wrong; the rest of its batch is not affected
    ├── BadImage      bytes that are not an image we can serve
    ├── BadMessage    a policy message that is forged, malformed, stale or out of sequence
    └── BadWish       a ``level``, ``quality`` or ``deadline_ms`` we cannot honour
"""

from __future__ import annotations

__all__ = [
    "BadImage",
    "BadMessage",
    "BadWish",
    "FoveateError",
    "InputError",
    "LadderError",
    "PolicyError",
    "PolicyTaken",
    "RequestError",
    "ServerError",
    "WeightsError",
]


class FoveateError(Exception):
    """Base class of all errors raised on purpose."""


class LadderError(FoveateError):
    """A ladder or latency file that cannot be used."""


class WeightsError(FoveateError):
    """A checkpoint that cannot be used."""


class InputError(FoveateError):
    """Images, labels, tables or settings a command cannot use; names key, value and range."""


class PolicyError(FoveateError):
    """A policy word that cannot be created or written."""


class PolicyTaken(PolicyError):
    """A policy word that another adapter publishes."""


class ServerError(FoveateError):
    """The Triton server could not be found, started or kept alive."""


class RequestError(FoveateError):
    """One request is wrong; the rest of its batch is not affected."""


class BadImage(RequestError):
    """Bytes that are not an image we can serve."""


class BadMessage(RequestError):
    """A policy message that is forged, malformed, stale or out of sequence."""


class BadWish(RequestError):
    """A ``level``, ``quality`` or ``deadline_ms`` we cannot honour."""
