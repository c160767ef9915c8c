"""URLs as they may be shown: without the user and the password in them."""

from __future__ import annotations

import re

__all__ = ["shown"]

# Up to the last @ before the path, as a URL is read, also in what is not quite one.
_USER = re.compile(r"^([a-z]+:/*)?[^/?#]*@", re.IGNORECASE)


def shown(url: str) -> str:
    """``url`` without its user: ``http://USER:PASSWORD@host/path`` becomes ``http://host/path``."""
    return _USER.sub(r"\1", url)
