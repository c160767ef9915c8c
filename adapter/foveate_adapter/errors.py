"""The errors the adapter raises on purpose.

FoveateError
├── AdapterError
│   ├── SettingsError   an environment variable that cannot be used; names key and value
│   ├── RemoteError     another host refused a policy or did not answer
│   ├── ScrapeError     the metrics source did not answer, or not in a form we can read
│   ├── StateError      a file of the state folder that cannot be read or written; names it
│   ├── UnknownModel    a model this adapter does not control; names those it does
│   ├── UnknownLevel    a level the ladder does not have; names those it has
│   ├── TooLarge        an image with more bytes than the model accepts
│   ├── Busy            the server accepts no more work at the moment, or does not answer in time
│   ├── UpstreamError   the server cannot be reached, or its answer makes no sense
│   └── Conflict        a change that conflicts with the current state: a pin below the quality
│                       floor, a quality no level has, any change while another adapter publishes
├── BadImage            bytes that are not an image (from ``foveate.errors``)
├── BadWish             a level or quality the ladder does not have (from ``foveate.errors``)
└── PolicyError         a policy word that cannot be written (from ``foveate.errors``)
"""

from __future__ import annotations

from foveate.errors import FoveateError

__all__ = [
    "AdapterError",
    "Busy",
    "Conflict",
    "RemoteError",
    "ScrapeError",
    "SettingsError",
    "StateError",
    "TooLarge",
    "UnknownLevel",
    "UnknownModel",
    "UpstreamError",
]


class AdapterError(FoveateError):
    """Base class of the adapter's own errors."""


class SettingsError(AdapterError):
    """An environment variable that cannot be used."""


class RemoteError(AdapterError):
    """Another host refused a policy or did not answer."""


class ScrapeError(AdapterError):
    """The metrics source did not answer, or not in a form we can read."""


class StateError(AdapterError):
    """A file of the state folder that cannot be read or written."""


class UnknownModel(AdapterError):
    """A model this adapter does not control."""


class UnknownLevel(AdapterError):
    """A level the ladder does not have."""


class TooLarge(AdapterError):
    """An image with more bytes than the model accepts."""


class Busy(AdapterError):
    """The server accepts no more work at the moment, or does not answer in time."""


class UpstreamError(AdapterError):
    """The server cannot be reached, or its answer makes no sense."""


class Conflict(AdapterError):
    """A change that conflicts with the current state."""
