"""The HTTP API: translates between JSON and :class:`Model`, decides nothing.

Every handler is a coroutine, so it shares one thread with the loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST

import foveate
from foveate.errors import BadWish
from foveate_adapter.errors import Conflict, UnknownModel
from foveate_adapter.metrics import Metrics
from foveate_adapter.model import Model
from foveate_adapter.schema import DecisionView, ModelView, PinWish, SloWish
from foveate_adapter.settings import Settings

__all__ = ["create_app"]

EVENT_PERIOD_S = 0.25

_STATUS: Mapping[type[Exception], int] = {UnknownModel: 404, Conflict: 409, BadWish: 422}


def create_app(
    settings: Settings,
    models: Sequence[Model],
    metrics: Metrics,
    *,
    leaving: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The API over ``models``; the loop that controls them runs beside it.

    Event streams, which have no end of their own, end when ``leaving`` says so.
    """
    app = FastAPI(title="Foveate adapter", version=foveate.__version__)
    app.state.models = {model.name: model for model in models}
    app.state.metrics = metrics
    app.state.token = settings.token and settings.token.get_secret_value()
    app.state.leaving = leaving
    for kind in _STATUS:
        app.add_exception_handler(kind, _refuse)
    app.include_router(_routes)
    return app


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, _STATUS[type(error)])


async def _models(request: Request) -> Mapping[str, Model]:
    models: Mapping[str, Model] = request.app.state.models
    return models


async def _model(name: str, models: Annotated[Mapping[str, Model], Depends(_models)]) -> Model:
    if name not in models:
        raise UnknownModel(f"model={name!r}: known are {', '.join(models)}")
    return models[name]


async def _authorize(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token: str | None = request.app.state.token
    if token is None:
        return
    if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
        raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})


_All = Annotated[Mapping[str, Model], Depends(_models)]
_One = Annotated[Model, Depends(_model)]
_write = [Depends(_authorize)]
_routes = APIRouter()


@_routes.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """The process is alive."""
    return "ok"


@_routes.get("/readyz", response_class=PlainTextResponse)
async def readyz(models: _All) -> PlainTextResponse:
    """Every model is under control; otherwise 503 and why not."""
    now = time.monotonic()
    problems = [problem for model in models.values() if (problem := model.problem(now))]
    return PlainTextResponse("\n".join(problems) or "ok", 503 if problems else 200)


@_routes.get("/metrics", response_class=PlainTextResponse)
async def exposition(request: Request) -> Response:
    """The adapter's own metrics, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@_routes.get("/v1/models")
async def list_models(models: _All) -> list[ModelView]:
    return [ModelView.of(model) for model in models.values()]


@_routes.get("/v1/models/{name}")
async def show_model(model: _One) -> ModelView:
    return ModelView.of(model)


@_routes.put("/v1/models/{name}/slo", dependencies=_write)
async def set_slo(model: _One, wish: SloWish) -> ModelView:
    """In force with the next decision, within a scrape period."""
    model.set_slo(wish.applied_to(model.slo))
    return ModelView.of(model)


@_routes.put("/v1/models/{name}/pin", dependencies=_write)
async def pin(model: _One, wish: PinWish) -> ModelView:
    """Serve everything at one level until unpinned."""
    model.set_pin(wish.level)
    return ModelView.of(model)


@_routes.delete("/v1/models/{name}/pin", dependencies=_write)
async def unpin(model: _One) -> ModelView:
    """Let the governor choose again; unpinning twice is fine."""
    model.set_pin(None)
    return ModelView.of(model)


@_routes.get("/v1/models/{name}/decisions")
async def list_decisions(
    model: _One, limit: Annotated[int, Query(ge=1, le=256)] = 64
) -> list[DecisionView]:
    """Decisions that changed reason or range, newest first."""
    return [DecisionView.of(decision) for decision in list(model.changes)[: -limit - 1 : -1]]


@_routes.get("/v1/events", response_class=StreamingResponse)
async def stream_events(request: Request, models: _All) -> StreamingResponse:
    """Server-sent events: ``model``, the state of each model four times a second, and
    ``decision``, each decision that changed reason or range.
    """
    events = _events(models, request.app.state.leaving)
    return StreamingResponse(events, media_type="text/event-stream")


async def _events(models: Mapping[str, Model], leaving: Callable[[], bool]) -> AsyncIterator[str]:
    told = time.monotonic()
    while not leaving():
        since, told = told, time.monotonic()
        for model in models.values():
            yield _event("model", ModelView.of(model).model_dump(mode="json"))
            for decision in [item for item in model.changes if item.at > since]:
                view = DecisionView.of(decision).model_dump(mode="json")
                yield _event("decision", {"model": model.name, **view})
        await asyncio.sleep(EVENT_PERIOD_S)


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
