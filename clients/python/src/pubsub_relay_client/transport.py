"""Transport of gql for queries and mutations."""

from __future__ import annotations

import json
import re
from typing import Any, AsyncGenerator

import httpx
from gql import GraphQLRequest
from gql.transport.async_transport import AsyncTransport
from gql.transport.exceptions import TransportClosed, TransportConnectionFailed
from graphql import ExecutionResult

from .errors import RelayError, of_errors
from .token import Token, authorization
from .writes import Writes


class RelayTransport(AsyncTransport):
    """Sends queries and mutations over HTTP. Each sees what earlier ones have written, on any pod.

    url: address of the pods, also as `ws://` or `wss://`.
    token: returns a token that is valid now; called for every request.
    writes: tokens of writes, shared with other transports of the same user. Default: its own.
    timeout: seconds that a request may take.

    A refused request raises RelayError. Errors of fields are in the result, as gql expects them.
    """

    def __init__(
        self, url: str, *, token: Token | None = None, writes: Writes | None = None, timeout: float = 10
    ) -> None:
        self._url = re.sub("^ws", "http", url)
        self._token = token
        self._writes = writes or Writes()
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    async def connect(self) -> None:
        self._client = httpx.AsyncClient(timeout=self._timeout)

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()
        self._client = None

    async def execute(self, request: GraphQLRequest) -> ExecutionResult:
        """Sends a query or a mutation."""
        if not self._client:
            raise TransportClosed("the transport is not connected")
        header = await authorization(self._token)
        extensions = self._writes.extend(request.extensions)
        payload = GraphQLRequest(request, extensions=extensions).payload
        try:
            response = await self._client.post(
                self._url, json=payload, headers={"Authorization": header} if header else {}
            )
        except httpx.HTTPError as error:
            raise TransportConnectionFailed(str(error) or type(error).__name__) from error
        answer = self._read(response)
        self._writes.note(answer.get("extensions"))
        return ExecutionResult(
            data=answer.get("data"), errors=answer.get("errors"), extensions=answer.get("extensions")
        )

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        """Returns the answer, or raises the error that it holds."""
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not ("data" in answer or answer.get("errors")):
            raise TransportConnectionFailed(f"status {response.status_code} without a result")
        if "data" not in answer:
            refusal = of_errors(answer["errors"])
            if refusal.code == "BAD_READ_AFTER":
                self._writes.forget()
            raise refusal
        return answer

    def subscribe(self, request: GraphQLRequest) -> AsyncGenerator[ExecutionResult, None]:
        """Refuses a subscription, which `watch` resumes."""
        raise RelayError("NOT_A_REQUEST", "Subscribe with `watch`: it goes on where it was after a cut.")
