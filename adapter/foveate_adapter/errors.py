"""Everything the adapter raises on purpose.

FoveateError
├── AdapterError
│   ├── SettingsError   an environment variable that cannot be used; names key and value
│   ├── ScrapeError     the metrics endpoint gave no answer, or none we can read
│   ├── UnknownModel    a model this adapter does not control; names those it does
│   └── Conflict        a wish that contradicts one in force: a pin under the quality floor
├── BadWish             a level or quality the ladder does not have (from ``foveate.errors``)
└── PolicyError         another adapter publishes the same policy (from ``foveate.errors``)
"""

from __future__ import annotations

from foveate.errors import FoveateError

__all__ = ["AdapterError", "Conflict", "ScrapeError", "SettingsError", "UnknownModel"]


class AdapterError(FoveateError):
    """Base of what the adapter itself raises."""


class SettingsError(AdapterError):
    """An environment variable that cannot be used."""


class ScrapeError(AdapterError):
    """The metrics endpoint gave no answer, or none we can read."""


class UnknownModel(AdapterError):
    """A model this adapter does not control."""


class Conflict(AdapterError):
    """A wish that contradicts one in force."""
