"""The web application: the routes of `Service` as ASGI, without Ray."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ss4rec.errors import SS4RecError, UsageError
from ss4rec.recommender import Recommendation
from ss4rec.serve.batcher import Batcher, BusyError
from ss4rec.serve.guards import App, Guard, Limits
from ss4rec.serve.metrics import Measured, ServeMetrics
from ss4rec.serve.schemas import (
    MOST_EVENTS,
    AskIn,
    ErrorOut,
    EventsIn,
    EventsOut,
    ItemOut,
    ModelName,
    ProfilesIn,
    ProfilesOut,
    RecommendOut,
    SimilarIn,
    SimilarOut,
)
from ss4rec.serve.served_model import ServedModel
from ss4rec.serve.service import Answer, Ask, Service, UnknownUserError
from ss4rec.serve.short_way import Answerer, ShortWay
from ss4rec.serve.store import Accepted, NewEvent, StoreError

REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOut, "description": "The request cannot be used as it is."},
    404: {"model": ErrorOut, "description": "Nothing is known of the user."},
    503: {"model": ErrorOut, "description": "Too many wait, or the event store does not answer: try again."},
}
LINGER_S = 0.5
"""New events wait so long before they are taken into states, so that one step takes those of several users: eight cost
less than twice as much as one. A question for a user does not wait: it takes the user's new events in itself."""
TURN_S = 0.0005
"""Python's lock changes hands after so long. A request needs it several times, of which each may wait for a thread that
works: Python's own 5 ms make the median of a busy server three to six times as long."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:"
)
"""Pages of this server load nothing and talk to nobody else."""
ABOUT = """Sends lists of items for users, from what they did up to this moment.

Set the header `x-session-id` to the user's id: requests of a user then reach the replica that has the user's state.
Any other replica gives the same answer, only later."""


class _ConflictError(UsageError):
    """An event's id belongs to another event."""


STATUS: dict[type[SS4RecError], int] = {
    _ConflictError: 409,
    UnknownUserError: 404,
    BusyError: 503,
    StoreError: 503,
    UsageError: 400,
}
"""HTTP status of our errors, the most special first; any other is 500."""


class AskQuery:
    """The fields of `AskIn` that fit into an address."""

    def __init__(
        self,
        user: str,
        k: int = 10,
        at: Annotated[str | None, Query(description="Unix seconds, ISO 8601, or `now`.")] = None,
        exclude_seen: bool = True,
    ) -> None:
        self.user = user
        self.k = k
        self.at = at
        self.exclude_seen = exclude_seen


def make_app(service: Service, limits: Limits = Limits()) -> App:  # noqa: B008  # frozen
    """Return the application.

    Args:
        service: what answers; it stays the caller's.
        limits: who may ask, and how much.
    """
    torch.set_num_threads(1)  # several replicas and threads share the cores
    sys.setswitchinterval(TURN_S)
    work = _Work(service)
    metrics = ServeMetrics(service, work.batchers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for batcher in work.batchers.values():
            batcher.close()

    # FastAPI's own pages load their scripts from elsewhere; `page/api.html` needs nothing.
    app = FastAPI(title="ss4rec", description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_pages(app, service, metrics)

    often: dict[str, Answerer] = {
        "/events": (EventsIn, _add_writes(app, service, work)),
        "/recommend": (AskIn, _add_questions(app, service, work)),
    }
    return Guard(Measured(ShortWay(app, often, _refused), metrics), limits)


class _Work:
    """The threads that work for the routes."""

    def __init__(self, service: Service) -> None:
        self.events: Batcher[Sequence[NewEvent], list[Accepted]] = Batcher("events", partial(_write, service))
        self.asks: Batcher[Ask, Answer] = Batcher("asks", service.recommend, most=16)
        self.states: Batcher[set[str], None] = Batcher(
            "states", partial(_refresh, service), linger_s=LINGER_S
        )
        self.batchers: dict[str, Batcher[Any, Any]] = {
            "events": self.events,
            "asks": self.asks,
            "states": self.states,
        }
        self._background: set[asyncio.Task[None]] = set()

    def later(self, users: set[str]) -> None:
        """Take what is new of some users into their states, while nobody waits."""
        task = asyncio.create_task(self.states.ask(users))
        self._background.add(task)
        task.add_done_callback(partial(_forget, self._background))


def _add_writes(app: FastAPI, service: Service, work: _Work) -> Callable[[EventsIn], Awaitable[EventsOut]]:
    """Add what brings something into the store; returns what writes events."""

    @app.post("/events", responses=REFUSED | {409: {"model": ErrorOut}})
    async def add_events(body: EventsIn) -> EventsOut:
        """Write what users did. The answer comes when the events are on disk; sending them again does no harm."""
        new = [event.new_event() for event in body.events]
        accepted = await work.events.ask(new)
        work.later({event.user for event in new})
        conflicts = [event.id for event, one in zip(new, accepted, strict=True) if one.outcome == "conflict"]
        if conflicts:
            raise _ConflictError(
                f"the ids {conflicts[:5]} belong to other events of their users; the rest is written"
            )
        model = service.model
        unknown = {event.item for event in new if not model.knows(event.item)}
        added = sum(one.outcome == "added" for one in accepted)
        return EventsOut(
            added=added,
            repeated=len(new) - added,
            unknown_items=sorted(unknown),
            unread_context=model.unread_context(
                name for event in body.events for name in event.context or {}
            ),
            model=_name(model),
        )

    @app.post("/users", responses=REFUSED)
    async def set_profiles(body: ProfilesIn) -> ProfilesOut:
        """Write what is known about users. Their next lists go by it, where the model reads it."""
        profiles = {one.user: json.dumps(one.profile, sort_keys=True) for one in body.users}
        await asyncio.to_thread(service.set_profiles, profiles)
        work.later(set(profiles))
        model = service.model
        unread = {text for one in body.users for text in model.unread_profile(one.profile)}
        return ProfilesOut(written=len(profiles), unread=sorted(unread)[:MOST_EVENTS], model=_name(model))

    writer: Callable[[EventsIn], Awaitable[EventsOut]] = add_events
    return writer


def _add_questions(app: FastAPI, service: Service, work: _Work) -> Callable[[AskIn], Awaitable[RecommendOut]]:
    """Add what is answered by the model; returns what makes lists."""

    async def answer(body: AskIn) -> RecommendOut:
        found = await work.asks.ask(body.ask())
        return RecommendOut(
            user=body.user,
            items=_items(found.items),
            events=found.events,
            newest=found.newest_s,
            model=_name(found.model),
        )

    @app.post("/recommend", responses=REFUSED)
    async def recommend(body: AskIn) -> RecommendOut:
        """Return the best items for a user whose events were sent, or for a bare history."""
        return await answer(body)

    @app.get("/recommend", responses=REFUSED)
    async def recommend_user(asked: Annotated[AskQuery, Depends()]) -> RecommendOut:
        """Return the best items for a user whose events were sent."""
        return await answer(AskIn(**vars(asked)))

    @app.post("/similar", responses=REFUSED)
    async def similar(body: SimilarIn) -> SimilarOut:
        """Return the items that the model holds to be nearest to each item."""
        lists, model = await asyncio.to_thread(service.similar, body.items, body.k)
        pairs = zip(body.items, map(_items, lists), strict=True)
        return SimilarOut(similar=dict(pairs), model=_name(model))

    return answer


def _write(service: Service, batch: Sequence[Sequence[NewEvent]]) -> list[list[Accepted]]:
    """Write the events of several requests in one transaction."""
    accepted = iter(service.add_events([event for events in batch for event in events]))
    return [[next(accepted) for _ in events] for events in batch]


def _refresh(service: Service, batch: Sequence[set[str]]) -> list[None]:
    """Take events into the states of users who were asked for before, while nobody waits."""
    service.refresh(set().union(*batch))
    return [None] * len(batch)


def _forget(background: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Let go of a task; what it could not do, the next question does."""
    background.discard(task)
    if not task.cancelled():
        task.exception()


def _add_errors(app: FastAPI) -> None:
    """Answer every error with one sentence."""

    @app.exception_handler(SS4RecError)
    async def ours(request: Request, error: SS4RecError) -> JSONResponse:
        return _refused(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _sentence(error)}, 400)

    @app.exception_handler(ValidationError)
    async def invalid_query(request: Request, error: ValidationError) -> JSONResponse:
        return JSONResponse({"error": _sentence(error)}, 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            {"error": f"{error.detail}: {request.url.path}"}, error.status_code, error.headers
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return _refused(error)


def _refused(error: Exception) -> JSONResponse:
    """Return the answer to a request that met an error."""
    if not isinstance(error, SS4RecError):
        return JSONResponse({"error": "the server failed; its log says how"}, 500)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status, {"retry-after": "1"} if status == 503 else None)


def _sentence(error: RequestValidationError | ValidationError) -> str:
    """Return what is wrong with a request: the first three problems."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'] if part != 'body') or 'body'}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    ]
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _add_pages(app: FastAPI, service: Service, metrics: ServeMetrics) -> None:
    """Add what says how the server is, and the page."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"model": ErrorOut}})
    async def ready() -> dict[str, str]:
        """Say whether requests can be answered: a model is there and the event store answers."""
        await asyncio.to_thread(service.store.since, {"": 0})
        return {"status": "ready", "model": service.model.name}

    @app.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """Return figures for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Return what is known about the model that answers now."""
        return _name(service.model).model_dump() | service.model.card

    @app.get("/items")
    async def items(
        search: Annotated[str, Query(min_length=1, max_length=100)],
        k: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> list[ItemOut]:
        """Find items by words of their titles."""
        return _items(service.model.search(search, k))

    def page(name: str) -> HTMLResponse:
        text = (files("ss4rec.serve") / "page" / name).read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": PAGE_POLICY})

    @app.get("/demo", response_class=HTMLResponse, include_in_schema=False)
    async def demo() -> HTMLResponse:
        return page("demo.html")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page("api.html")


def _items(found: Sequence[Recommendation]) -> list[ItemOut]:
    return [ItemOut(item=one.item, title=one.title, score=one.score) for one in found]


def _name(model: ServedModel) -> ModelName:
    return ModelName(name=model.name, fingerprint=model.fingerprint)
