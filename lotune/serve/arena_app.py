"""The arena's part of a server: battles, votes and the leaderboard over HTTP.

Both answers of a turn come in one stream as they are written, under the sides a and b. No name, token count or time of
a model leaves the server before the vote, and the vote is on the disk before the names are sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from lotune.arena.battles import SIDES, Arena, Battle, BattleError, Opponent, Side
from lotune.arena.leaderboard import Filters, Leaderboard, leaderboard
from lotune.arena.picture import leaderboard_svg
from lotune.arena.store import Verdict
from lotune.serve.chat import ChatCall
from lotune.serve.errors import ApiError
from lotune.serve.gateway import Gateway
from lotune.serve.keys import ApiKeys
from lotune.serve.limits import BATTLES_PER_MINUTE
from lotune.serve.protocol import ChatRequest
from lotune.serve.remote import remote_model
from lotune.serve.streaming import StreamedResponse, event

PATH = "/ui/arena"
COOKIE = "lotune_visitor"
COOKIE_SECONDS = 400 * 24 * 3600
MAX_PROMPT_CHARACTERS = 20_000
PAUSE = 10.0
"""A leaderboard is not computed again before so many times the time that it took."""
MAX_BOARDS = 100
ADMINISTRATOR = "admin"
"""Name of the administrator's key in the file of keys."""


@dataclass(frozen=True)
class ArenaOptions:
    """Bounds of an arena: an answer without a new piece of text for `stall_seconds` has failed.

    A visitor, and an address, may start `per_minute` battles a minute.
    """

    stall_seconds: float = 60.0
    per_minute: int = BATTLES_PER_MINUTE


class Prompt(BaseModel):
    """What a person asks both models."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class Ballot(BaseModel):
    """A person's verdict."""

    verdict: Verdict


class NewOpponent(BaseModel):
    """An opponent that the administrator adds: a model of another server."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    address: Annotated[str, Field(max_length=2000)]


@dataclass
class RateLimit:
    """A bound on what one visitor or address does in a minute."""

    per_minute: int
    most: int = 10_000
    _times: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    def take(self, who: str) -> None:
        """Count something. Raises: ApiError with 429 if it is too much."""
        now = time.monotonic()
        times = [one for one in self._times.pop(who, []) if now - one < 60]
        self._times[who] = times
        while len(self._times) > self.most:
            self._times.popitem(last=False)
        if len(times) >= self.per_minute:
            wait = int(60 - (now - times[0])) + 1
            raise ApiError(
                429, f"at most {self.per_minute} battles a minute; try again in {wait} s", "rate_limit_error",
                code="rate_limit_exceeded", headers={"Retry-After": str(wait)},
            )  # fmt: skip
        times.append(now)


def add_arena(app: FastAPI, gateway: Gateway, arena: Arena, options: ArenaOptions, keys: ApiKeys | None) -> None:
    """Add the arena's paths to an application; `keys` are those of the server, with the administrator's among them."""
    limit, boards = RateLimit(options.per_minute), _Boards(arena)

    @app.post(PATH + "/battles", include_in_schema=False)
    async def start(request: Request, response: Response) -> Any:
        visitor = _visitor(request)
        for who in (visitor, request.client.host if request.client else ""):
            limit.take(who)
        if not request.cookies.get(COOKIE):
            response.set_cookie(
                COOKIE, visitor, COOKIE_SECONDS, path=request.url.path.rpartition("/arena")[0] or "/",
                httponly=True, samesite="strict",
            )  # fmt: skip
        return {"battle": _checked(lambda: arena.start(_anonymous(visitor))).id}

    @app.post(PATH + "/battles/{id}/turns", include_in_schema=False)
    async def turn(id: str, body: Prompt, request: Request) -> Response:
        battle = _checked(lambda: arena.battle(id, _anonymous(_visitor(request))))
        _checked(lambda: arena.begin_turn(battle))
        run = _Turn(gateway, arena, battle, body.prompt, options)
        return StreamedResponse(run.stream(), run.close, seconds=gateway.limits.request_seconds + 10)

    @app.post(PATH + "/battles/{id}/vote", include_in_schema=False)
    async def vote(id: str, body: Ballot, request: Request) -> Any:
        battle = _checked(lambda: arena.battle(id, _anonymous(_visitor(request))))
        written = await asyncio.to_thread(_checked, lambda: arena.vote(battle, body.verdict))
        return {"model_a": written.model_a, "model_b": written.model_b, "counts": not written.named}

    @app.get(PATH + "/opponents", include_in_schema=False)
    async def opponents() -> Any:
        well = arena.well()
        return {"opponents": [{"name": name, "answers": name in well} for name in arena.opponents]}

    @app.post(PATH + "/opponents", include_in_schema=False)
    async def add_opponent(body: NewOpponent, request: Request) -> Any:
        _administrator(keys, request)
        if body.name in gateway.models.names:
            raise ApiError(409, f"there is a model called {body.name}", code="name_taken")
        gateway.models.add_remote(remote_model(body.name, body.address))
        arena.opponents[body.name] = Opponent(body.name)
        return {"opponents": list(arena.opponents)}

    @app.get(PATH + "/leaderboard{form}", include_in_schema=False)
    async def board(
        form: str,
        language: Literal["", "zh", "en", "other"] = "",
        category: Literal["", "math", "code", "long", "other"] = "",
        judge: Annotated[str, Field(max_length=200)] = "people",
        style: bool = False,
    ) -> Response:
        filters = Filters(language or None, category or None, judge, style)
        found = await asyncio.to_thread(boards.get, filters)
        if form == ".csv":
            return Response(found.to_csv(), media_type="text/csv; charset=utf-8")
        if form == ".svg":
            return Response(leaderboard_svg(found), media_type="image/svg+xml")
        if form != ".json":
            raise ApiError(404, "there are leaderboard.json, .csv and .svg", code="not_found")
        return Response(found.to_json(), media_type="application/json")


class _Boards:
    """Leaderboards by filter, computed anew when there are new votes; a slow one not all the time."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._known = arena, OrderedDict[Filters, tuple[int, float, Leaderboard]]()

    def get(self, filters: Filters) -> Leaderboard:
        count, now = self._arena.store.count(), time.monotonic()
        known = self._known.get(filters)
        if known is not None and (known[0] == count or now < known[1]):
            return known[2]
        found = leaderboard(self._arena.store.summaries(), filters)
        cost = time.monotonic() - now
        self._known[filters] = (count, now + cost * PAUSE, found)
        while len(self._known) > MAX_BOARDS:
            self._known.popitem(last=False)
        return found


class _Turn:
    """The answers of both sides to one prompt, as one stream of events."""

    def __init__(self, gateway: Gateway, arena: Arena, battle: Battle, prompt: str, options: ArenaOptions) -> None:
        self.gateway, self.arena, self.battle, self.prompt, self.options = gateway, arena, battle, prompt, options
        self.texts: dict[Side, str] = {"a": "", "b": ""}
        self.failed: set[Side] = set()
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the pieces of both answers, and at the end whether a vote is possible."""
        self._tasks = [asyncio.create_task(self._side(side)) for side in SIDES]
        try:
            open_ = len(self._tasks)
            while open_:
                news = await self._events.get()
                if news is None:
                    open_ -= 1
                else:
                    yield event(news)
            self._end()
            yield event({"failed": self.battle.failed})
        finally:
            self.close()

    def close(self) -> None:
        """End the turn if the person goes away: both models stop."""
        for task in self._tasks:
            task.cancel()
        if not self._ended:
            self._ended = True
            self.arena.leave_turn(self.battle)

    def _end(self) -> None:
        self._ended = True
        answers = {side: None if side in self.failed else self.texts[side] for side in SIDES}
        self.arena.end_turn(self.battle, self.prompt, answers)

    async def _side(self, side: Side) -> None:
        try:
            async with aclosing(self._pieces(side)) as pieces:
                iterator = aiter(pieces)
                with suppress(StopAsyncIteration):
                    while True:
                        # A model that stalls must not block the battle.
                        piece = await asyncio.wait_for(anext(iterator), self.options.stall_seconds)
                        self.texts[side] += piece
                        self._events.put_nowait({"side": side, "text": piece})
            self._events.put_nowait({"side": side, "done": True})
        except asyncio.CancelledError:
            raise
        except Exception:
            self.failed.add(side)
            # The reason may name the model, so it is not sent.
            self._events.put_nowait({"side": side, "failed": True})
        finally:
            self._events.put_nowait(None)

    async def _pieces(self, side: Side) -> AsyncGenerator[str]:
        opponent = self.battle.opponents[side]
        messages: Any = self.battle.messages(side, self.prompt)
        body = ChatRequest(model=opponent.name, messages=messages, stream=True, **self.battle.settings)
        remote = self.gateway.models.remotes.get(opponent.name)
        if remote is not None:
            async with aclosing(remote.texts(body)) as texts:
                async for text in texts:
                    yield text
            return
        call = ChatCall(self.gateway, body)
        try:
            await call.start()
            async for pieces in call.pieces():
                if text := "".join(piece.text for piece in pieces):
                    yield text
        finally:
            call.close()


def _checked(work: Any) -> Any:
    """Return the result of `work`; raise ApiError for BattleError."""
    try:
        return work()
    except BattleError as error:
        raise ApiError(error.status, error.found, code="no_battle") from None


def _visitor(request: Request) -> str:
    """Return the visitor's cookie, or a new one."""
    given = request.cookies.get(COOKIE, "")
    return given if 16 <= len(given) <= 64 and given.isascii() else secrets.token_urlsafe(24)


def _anonymous(visitor: str) -> str:
    """Return what is stored of a visitor: a digest, with which nobody can vote in the visitor's name."""
    return hashlib.sha256(visitor.encode()).hexdigest()[:32]


def _administrator(keys: ApiKeys | None, request: Request) -> None:
    """Raise ApiError unless the request has the administrator's key."""
    if keys is None:
        raise ApiError(403, f"opponents are added with the key {ADMINISTRATOR} of the server's --keys file")
    if keys.check(request.headers.get("authorization", "")).name != ADMINISTRATOR:
        raise ApiError(403, "this is for the administrator", code="not_administrator")
