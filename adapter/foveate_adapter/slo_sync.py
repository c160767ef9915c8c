"""Central SLOs for many adapters: another adapter's ``/v1/slos``, or any JSON like it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

import httpx
from pydantic import TypeAdapter, ValidationError

from foveate_adapter.address import shown
from foveate_adapter.errors import Conflict, StateError
from foveate_adapter.model import Model
from foveate_adapter.slo import SloWish

__all__ = ["adopt", "follow"]

PERIOD_S = 60.0

_log = logging.getLogger(__name__)
_Slos = TypeAdapter(dict[str, SloWish])


async def follow(url: str, models: Sequence[Model]) -> None:
    """Adopt the SLOs at ``url`` until cancelled. Retries failures, and logs each problem once."""
    logged: set[str] = set()
    async with httpx.AsyncClient() as client:
        while True:
            try:
                reply = (await client.get(url)).raise_for_status()
                problems = set(adopt(reply.content, models))
            except httpx.HTTPStatusError as error:  # its text has the URL in it
                problems = {f"HTTP {error.response.status_code}"}
            except httpx.HTTPError as error:
                problems = {f"{type(error).__name__}: {error}"}
            for problem in problems - logged:
                _log.warning("%s: %s", shown(url), problem)
            logged = problems
            await asyncio.sleep(PERIOD_S)


def adopt(text: bytes, models: Sequence[Model]) -> Iterator[str]:
    """Give each model the SLO that ``text`` has for it, and yield the problems.

    Missing keys keep their value; SLOs of unknown models are ignored.
    """
    try:
        slos = _Slos.validate_json(text)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        return
    for model in models:
        wish = slos.get(model.name, SloWish())
        if model.holder is None and (slo := wish.applied_to(model.slo)) != model.slo:
            try:
                model.set_slo(slo)
                _log.info("%s: %s from the central SLOs", model.name, slo)
            except (Conflict, StateError) as error:
                yield str(error)
