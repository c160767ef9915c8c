"""Everything the engine raises on purpose.

FoveateError
├── LadderError       a ladder or latency file that cannot be used; names file and key
├── WeightsError      a checkpoint that cannot be used; names file and tensor
├── PolicyError       a policy word that cannot be created or written
├── ServerError       the Triton server could not be found, started or kept alive
└── RequestError      one request is wrong; its batch mates are not affected
    ├── BadImage      bytes that are not an image we serve
    └── BadWish       a ``level``, ``quality`` or ``deadline_ms`` we cannot honour
"""

from __future__ import annotations

__all__ = [
    "BadImage",
    "BadWish",
    "FoveateError",
    "LadderError",
    "PolicyError",
    "RequestError",
    "ServerError",
    "WeightsError",
]


class FoveateError(Exception):
    """Base of all errors raised on purpose."""


class LadderError(FoveateError):
    """A ladder or latency file that cannot be used."""


class WeightsError(FoveateError):
    """A checkpoint that cannot be used."""


class PolicyError(FoveateError):
    """A policy word that cannot be created or written."""


class ServerError(FoveateError):
    """The Triton server could not be found, started or kept alive."""


class RequestError(FoveateError):
    """One request is wrong; its batch mates are not affected."""


class BadImage(RequestError):
    """Bytes that are not an image we serve."""


class BadWish(RequestError):
    """A ``level``, ``quality`` or ``deadline_ms`` we cannot honour."""
