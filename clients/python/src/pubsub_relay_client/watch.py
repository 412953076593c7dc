"""The subscription that resumes."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import OrderedDict
from contextlib import aclosing
from typing import Any, AsyncGenerator, Callable

from gql import GraphQLRequest, gql
from gql.transport.async_transport import AsyncTransport
from gql.transport.exceptions import TransportError
from gql.transport.websockets import WebsocketsTransport
from graphql import ExecutionResult

from .errors import RelayError, fatal, of_errors
from .sse import SseTransport
from .store import Store
from .token import Token, authorization

log = logging.getLogger("pubsub_relay_client")

# Number of event ids that are kept to drop repeats. A resume repeats at most 15 s.
_KEPT_IDS = 1_000


def _wait(retries: int) -> float:
    return random.random() * min(2**retries, 10)


async def watch(
    url: str,
    query: str,
    *,
    variables: dict[str, Any] | None = None,
    operation_name: str | None = None,
    token: Token | None = None,
    on_gap: Callable[[dict[str, Any]], None] | None = None,
    on_state: Callable[[str], None] | None = None,
    on_warning: Callable[[RelayError], None] | None = None,
    store: Store | None = None,
    patience: float = 40,
    retry_wait: Callable[[int], float] = _wait,
) -> AsyncGenerator[ExecutionResult, None]:
    """Yields each result of a subscription once, over as many connections as it takes.

    A `ws://` or `wss://` URL goes over WebSocket, `http://` or `https://` over server-sent events.
    The document need not declare `after`.

    token: returns a token that is valid now; called for every connection.
    on_gap: called when events are missing: query the present state again. Without it, the result
        whose extensions hold the gap is yielded.
    on_state: called with "connecting", "live", "waiting" or "ended".
    on_warning: called with a problem that ends nothing. Default: a warning in the log.
    store: where the cursor is kept for a later start. Default: nowhere.
    patience: silence in seconds after which a connection counts as lost. A pod pings every 25 s.
    retry_wait: returns the seconds before the next attempt, from the number of failed ones.

    Raises RelayError when no retry helps.
    """
    say = on_state or (lambda state: None)
    place = _Place(query, operation_name, variables, store, on_warning)
    retries = 0
    while True:
        try:
            say("connecting")
            transport = await _transport(url, token, patience)
            async with _connected(transport):
                extensions = place.extensions(await _start(transport, url))
                say("live")
                request = GraphQLRequest(
                    gql(query), variable_values=variables, operation_name=operation_name, extensions=extensions
                )
                async with aclosing(transport.subscribe(request)) as results:
                    async for result in results:
                        retries = 0
                        if result.errors and result.data is None and not (result.extensions or {}).get("cursor"):
                            raise of_errors(result.errors)
                        if not place.is_news(result):
                            continue
                        gap = (result.extensions or {}).get("gap")
                        if gap and on_gap:
                            on_gap(gap)
                        else:
                            yield result
            say("ended")
            return
        except (TransportError, OSError, asyncio.TimeoutError, RelayError) as error:
            final = fatal(error)
            if final:
                if final.code == "BAD_CURSOR":
                    place.forget()
                say("ended")
                raise final from error
            log.debug("connection lost: %s", error.__cause__ or error)
        task = asyncio.current_task()
        if task and task.cancelling():
            # gql swallows a cancellation while it closes a connection.
            raise asyncio.CancelledError
        say("waiting")
        await asyncio.sleep(retry_wait(retries))
        retries += 1


class _Place:
    """Place of a subscription in the order of events, over all its connections."""

    def __init__(
        self,
        query: str,
        operation_name: str | None,
        variables: dict[str, Any] | None,
        store: Store | None,
        on_warning: Callable[[RelayError], None] | None,
    ) -> None:
        self._key = json.dumps([query, operation_name, variables])
        self._store = store
        self._on_warning = on_warning
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._cursor: str | None = self._stored("load")
        self._start: str | None = None

    def extensions(self, start: str) -> dict[str, Any] | None:
        """Returns what makes the pod go on; None for the first connection, which begins at `start`."""
        after = self._cursor or self._start
        # Before the first result, a second connection begins where the first one did.
        self._start = self._start or start
        return {"after": after} if after else None

    def is_news(self, result: ExecutionResult) -> bool:
        """Moves to the result's position. Returns whether it is no repeat."""
        extensions = result.extensions or {}
        if cursor := extensions.get("cursor"):
            self._cursor = cursor
            self._stored("save", cursor)
        if event := extensions.get("eventId"):
            if event in self._seen:
                return False
            self._seen[event] = None
            if len(self._seen) > _KEPT_IDS:
                self._seen.popitem(last=False)
        return True

    def forget(self) -> None:
        """Removes the stored cursor."""
        self._stored("remove")

    def _stored(self, method: str, *values: str) -> Any:
        if self._store is None:
            return None
        try:
            return getattr(self._store, method)(self._key, *values)
        except Exception as cause:  # a store may raise anything
            self._store = None
            warning = RelayError(
                "STORAGE_FAILED",
                f"The cursor cannot be stored ({cause}): after a restart this subscription begins anew. "
                "Free some space, allow writing, or pass another `store`.",
            )
            warning.__cause__ = cause
            if self._on_warning:
                self._on_warning(warning)
            else:
                log.warning("%s", warning)
            return None


async def _transport(url: str, token: Token | None, patience: float) -> AsyncTransport:
    header = await authorization(token)
    if url.startswith(("ws://", "wss://")):
        return WebsocketsTransport(
            url=url,
            init_payload={"token": header} if header else {},
            keep_alive_timeout=patience,
            subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL],
        )
    return SseTransport(url, {"Authorization": header} if header else {}, patience)


class _connected:
    """Connects a transport, and closes it whatever happens."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def __aenter__(self) -> None:
        await self._transport.connect()

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()


async def _start(transport: AsyncTransport, url: str) -> str:
    """Returns the cursor of a connection's start."""
    if isinstance(transport, WebsocketsTransport):
        payload = transport.payloads.get("connection_ack") or {}
        cursor = payload.get("cursor")
    else:
        result = await transport.execute(GraphQLRequest(gql("{ __typename }")))
        cursor = (result.extensions or {}).get("cursor")
    if not cursor:
        raise RelayError("NOT_A_RELAY", f"{url} is no relay: it sends no cursor. Check the address.")
    return cursor
