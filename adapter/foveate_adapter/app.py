"""The HTTP API: translates between JSON and :class:`Model`, decides nothing.

Every handler is a coroutine, so all share one thread; the loop has another one, see :class:`Model`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AwareDatetime, BeforeValidator
from starlette.requests import ClientDisconnect
from starlette.routing import Match

import foveate
from foveate.control.heartbeat import Heartbeats
from foveate.errors import BadImage
from foveate_adapter import console
from foveate_adapter.errors import (
    Busy,
    Conflict,
    StateError,
    TooLarge,
    UnknownLevel,
    UnknownModel,
    UpstreamError,
)
from foveate_adapter.explain import Explainer
from foveate_adapter.model import Decided, Model
from foveate_adapter.own_metrics import Metrics
from foveate_adapter.schema import DecisionView, Explanation, ModelView, PinWish, Problem
from foveate_adapter.settings import Settings, is_loopback
from foveate_adapter.slo import Slo, SloWish

__all__ = ["create_app"]

EVENT_PERIOD_S = 0.2
MAX_STREAMS = 64  # each holds one of the connections for as long as it likes
MAX_BODY_BYTES = 64 * 2**10  # of a wish
IMAGE_TYPES = ("image/jpeg", "image/png", "application/octet-stream")

_STATUS: Mapping[type[Exception], int] = {
    UnknownModel: 404,
    UnknownLevel: 404,
    Conflict: 409,
    StateError: 507,
    BadImage: 400,
    TooLarge: 413,
    Busy: 503,
    UpstreamError: 502,
    ClientDisconnect: 400,  # nobody is there to be told
}


def create_app(
    settings: Settings,
    models: Sequence[Model],
    metrics: Metrics,
    heartbeats: Heartbeats | None = None,
    *,
    leaving: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The API over ``models``; the loop that controls them runs beside it.

    ``heartbeats`` are those of all processes of the server, which is not ready while one is silent.
    Event streams, which have no end of their own, end when ``leaving`` says so.
    """
    # No pages about the API: they run scripts from elsewhere, where the console keeps its token.
    app = FastAPI(
        title="Foveate adapter", version=foveate.__version__, docs_url=None, redoc_url=None
    )
    app.state.models = {model.name: model for model in models}
    app.state.metrics = metrics
    app.state.heartbeats = heartbeats or Heartbeats()
    app.state.leaving = leaving
    app.state.streams = 0
    app.state.explainer = Explainer(settings.triton_url)
    for kind in _STATUS:
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(RequestValidationError, _misfit)
    app.add_exception_handler(405, _wrong_method)
    if settings.token is None:
        for router in (_reads, _writes):
            app.include_router(
                router,
                dependencies=[Depends(_refuse_other_names)],
                responses=_refusals({403: "Asked by a name that is not this machine's"}),
            )
    else:
        app.include_router(_reads)
        app.state.token = settings.token.get_secret_value().encode()
        app.include_router(
            _writes, dependencies=[Depends(_authorize)], responses=_refusals({401: "No token"})
        )
    console.mount(app)
    return app


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, _STATUS[type(error)])


async def _misfit(request: Request, error: Exception) -> JSONResponse:
    """Which keys are wrong and why. FastAPI's own answer also repeats the values, and fails if one
    of them is not a number.
    """
    assert isinstance(error, RequestValidationError)
    problems = [{key: item[key] for key in ("loc", "msg", "type")} for item in error.errors()]
    return JSONResponse({"detail": problems}, 422)


async def _wrong_method(request: Request, error: Exception) -> JSONResponse:
    """Which methods there are. Starlette names those of one handler, a path may have several."""
    routes = [route for route in (*_reads.routes, *_writes.routes) if isinstance(route, APIRoute)]
    here = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    allowed = ", ".join(sorted(method for route in here for method in route.methods or ()))
    return JSONResponse({"detail": f"allowed: {allowed}"}, 405, {"Allow": allowed})


async def _models(request: Request) -> Mapping[str, Model]:
    models: Mapping[str, Model] = request.app.state.models
    return models


async def _model(name: str, models: Annotated[Mapping[str, Model], Depends(_models)]) -> Model:
    if name not in models:
        raise UnknownModel(f"model={name!r}: expected one of {', '.join(models)}")
    return models[name]


async def _authorize(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token: bytes = request.app.state.token
    if given is None or not hmac.compare_digest(given.credentials.encode(), token):
        raise HTTPException(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})


async def _refuse_other_names(request: Request) -> None:
    """Reject DNS rebinding. Without a token the API trusts its own machine, but not web pages in
    its browsers: a page whose host name was made to point here still sends that name.
    """
    name = request.url.hostname or ""
    if not is_loopback(name):
        raise HTTPException(403, f"Host={name!r}: without a token, only loopback names are allowed")


async def _stream(request: Request) -> AsyncIterator[None]:
    """Count an event stream while it is open."""
    state = request.app.state
    if state.streams >= MAX_STREAMS:
        raise Busy(f"{MAX_STREAMS} event streams are already open")
    state.streams += 1
    try:
        yield
    finally:
        state.streams -= 1


def _refusals(reasons: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": why} for status, why in reasons.items()}


_All = Annotated[Mapping[str, Model], Depends(_models)]
_One = Annotated[Model, Depends(_model)]
# By itself pydantic also takes a number, and calls it a Unix time.
_Moment = Annotated[AwareDatetime, BeforeValidator(datetime.fromisoformat)]
_UNKNOWN = {404: "No such model or level"}
_CONTRADICTION = {409: "Conflicts with the current state, or this adapter is read-only"}
_LARGE = {413: f"The body is larger than {MAX_BODY_BYTES} bytes"}
_UNREADABLE = {400: "The body cannot be decoded"}
_reads, _writes = APIRouter(), APIRouter()


@_reads.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """The process is alive."""
    return "ok"


@_reads.get(
    "/readyz",
    response_class=PlainTextResponse,
    responses={503: {"description": "Why not, one line each", "content": {"text/plain": {}}}},
)
async def readyz(request: Request, models: _All) -> PlainTextResponse:
    """Every model is under control (by another adapter, if this one is read-only), and every model
    process of the server is alive.
    """
    now = time.monotonic()
    heartbeats: Heartbeats = request.app.state.heartbeats
    problems = [str(silence) for silence in heartbeats.silent(now)]
    problems += [problem for model in models.values() if (problem := model.problem(now))]
    return PlainTextResponse("\n".join(problems) or "ok", 503 if problems else 200)


@_reads.get("/metrics", response_class=PlainTextResponse)
async def exposition(request: Request) -> Response:
    """The adapter's own metrics, as Prometheus text, or as OpenMetrics on request."""
    text, content_type = request.app.state.metrics.text(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)


@_reads.get("/v1/models")
async def list_models(models: _All) -> list[ModelView]:
    return [ModelView.of(model) for model in models.values()]


@_reads.get("/v1/models/{name}", responses=_refusals(_UNKNOWN))
async def show_model(model: _One) -> ModelView:
    return ModelView.of(model)


@_reads.get("/v1/slos")
async def list_slos(models: _All) -> dict[str, Slo]:
    """SLOs by model, in the format that another adapter's ``slo_url`` reads."""
    return {name: model.slo for name, model in models.items()}


@_writes.put(
    "/v1/models/{name}/slo",
    responses=_refusals(
        _UNREADABLE | _UNKNOWN | _CONTRADICTION | _LARGE | {507: "The SLO cannot be stored"}
    ),
    max_body_size=MAX_BODY_BYTES,
)
async def set_slo(model: _One, wish: SloWish) -> ModelView:
    """Takes effect with the next decision, within a scrape period; survives restarts."""
    model.set_slo(wish.applied_to(model.slo))
    return ModelView.of(model)


@_writes.put(
    "/v1/models/{name}/pin",
    responses=_refusals(_UNREADABLE | _UNKNOWN | _CONTRADICTION | _LARGE),
    max_body_size=MAX_BODY_BYTES,
)
async def pin(model: _One, wish: PinWish) -> ModelView:
    """Serve everything at one level until unpinned or until the pin expires."""
    until = math.inf if wish.expires_s is None else time.monotonic() + wish.expires_s
    model.set_pin(wish.level, until)
    return ModelView.of(model)


@_writes.delete("/v1/models/{name}/pin", responses=_refusals(_UNKNOWN | _CONTRADICTION))
async def unpin(model: _One) -> ModelView:
    """Let the governor choose again. Idempotent."""
    model.unpin()
    return ModelView.of(model)


@_writes.post(
    "/v1/models/{name}/explain",
    responses=_refusals(
        _UNREADABLE
        | _UNKNOWN
        | {413: "The image is too large", 415: "Neither a JPEG nor a PNG file"}
        | {502: "The Triton server cannot be reached", 503: "The server is busy: try again"}
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES
            },
        }
    },
)
async def explain(
    request: Request,
    model: _One,
    level: Annotated[
        str | None, Query(description="name or index; by default the governor chooses")
    ] = None,
    top: Annotated[int, Query(ge=1, le=100, description="number of classes")] = 5,
) -> Explanation:
    """Classify one image and show what happened to each patch. This is a normal request: it counts
    in all metrics, and under pressure it may be rejected.
    """
    # Browsers let other sites' pages send some content types without asking; none of these.
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in IMAGE_TYPES:
        raise HTTPException(415, f"Content-Type={kind!r}: expected {', '.join(IMAGE_TYPES)}")
    explainer: Explainer = request.app.state.explainer
    return await explainer.explain(model, request.stream(), level, top)


@_reads.get("/v1/models/{name}/decisions", responses=_refusals(_UNKNOWN))
async def list_decisions(
    model: _One,
    limit: Annotated[int, Query(ge=1, le=256)] = 64,
    since: Annotated[_Moment | None, Query(description="only decisions after this time")] = None,
) -> list[DecisionView]:
    """Decisions that changed reason or range, newest first; the last 256 are kept."""
    with model.lock:
        later = [item for item in model.changes if since is None or item.time > since]
    return [DecisionView.of(item) for item in later[: -limit - 1 : -1]]


@_reads.get(
    "/v1/events",
    response_class=StreamingResponse,
    responses=_refusals({503: "Too many streams are open"})
    | {200: {"description": "An endless stream", "content": {"text/event-stream": {}}}},
    dependencies=[Depends(_stream)],
)
async def stream_events(request: Request, models: _All) -> StreamingResponse:
    """Server-sent events: ``model`` with the state of each model, five times a second, and
    ``decision`` for each decision that changed reason or range.
    """
    events = _events(models, request.app.state.leaving)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(models: Mapping[str, Model], leaving: Callable[[], bool]) -> AsyncIterator[str]:
    due = time.monotonic()
    told: dict[str, Decided | None] = {
        name: next(reversed(_later(model, None)), None) for name, model in models.items()
    }
    while not leaving():
        for name, model in models.items():
            yield _event("model", ModelView.of(model).model_dump(mode="json"))
            for item in _later(model, told[name]):
                told[name] = item
                view = DecisionView.of(item).model_dump(mode="json")
                yield _event("decision", {"model": name, **view})
        due = max(due + EVENT_PERIOD_S, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


def _later(model: Model, told: Decided | None) -> list[Decided]:
    """Decisions recorded after ``told``, oldest first. Their times are from before they were."""
    with model.lock:
        newest_first = [*takewhile(lambda item: item is not told, reversed(model.changes))]
    return newest_first[::-1]


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
