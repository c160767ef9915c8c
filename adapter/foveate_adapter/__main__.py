"""``python -m foveate_adapter``: control every model of a repository until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from foveate.errors import FoveateError
from foveate_adapter import slo_sync as central
from foveate_adapter.app import create_app
from foveate_adapter.loop import run
from foveate_adapter.model import open_models
from foveate_adapter.own_metrics import Metrics
from foveate_adapter.settings import Settings
from foveate_adapter.sources import open_source

MAX_CONNECTIONS = 256  # beyond that, every request is answered 503
FIRST_REQUEST_TIMEOUT_S = 10.0  # connections without a request by then are closed

_log = logging.getLogger(__name__)


class Connection(H11Protocol):
    """uvicorn's protocol, plus a time limit for the first request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST_TIMEOUT_S, self._hang_up_on_the_silent)

    def _hang_up_on_the_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()


async def serve(settings: Settings) -> None:
    """Run loop and API until a signal. Raises :class:`FoveateError` if it cannot start."""
    models = open_models(settings, epoch=time.time_ns())
    metrics = Metrics(models)
    source = open_source(settings, [model.name for model in models])
    app = create_app(
        settings, models, metrics, source.heartbeats, leaving=lambda: server.should_exit
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=Connection,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
            limit_concurrency=MAX_CONNECTIONS,
        )
    )
    names = ", ".join(model.name for model in models)
    _log.info("http://%s:%d controls %s", settings.host, settings.port, names)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(models, metrics, source, settings.beat_hz))]
        if settings.slo_url is not None:
            tasks.append(group.create_task(central.follow(settings.slo_url, models)))
        await server.serve()
        for task in tasks:
            task.cancel()
    for model in models:
        model.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="foveate-adapter: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every scrape
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again once it has drained; by then it has had its effect.
        signal.signal(number, lambda *_: None)
    try:
        asyncio.run(serve(Settings.from_environment()))
    except FoveateError as error:
        raise SystemExit(f"foveate-adapter: {error}") from error


if __name__ == "__main__":
    main()
