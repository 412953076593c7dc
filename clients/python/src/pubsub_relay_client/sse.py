"""Transport of gql over server-sent events: one request for each subscription."""

from __future__ import annotations

import json
from typing import Any, AsyncGenerator

import httpx
from gql import GraphQLRequest
from gql.transport.async_transport import AsyncTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError
from graphql import ExecutionResult


class SseTransport(AsyncTransport):
    """Sends each subscription as a request of its own, and reads results as server-sent events."""

    def __init__(self, url: str, headers: dict[str, str], patience: float) -> None:
        self._url = url
        self._headers = headers
        # A pod writes at least a comment every 12 s, so a read that lasts longer means a dead network.
        self._timeout = httpx.Timeout(patience)
        self._client: httpx.AsyncClient | None = None

    async def connect(self) -> None:
        self._client = httpx.AsyncClient(timeout=self._timeout)

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()

    async def execute(self, request: GraphQLRequest) -> ExecutionResult:
        """Sends a query or a mutation."""
        assert self._client
        try:
            response = await self._client.post(self._url, json=request.payload, headers=self._headers)
        except httpx.HTTPError as error:
            raise TransportConnectionFailed(str(error)) from error
        return _result(_checked(response.status_code, response.content))

    async def subscribe(self, request: GraphQLRequest) -> AsyncGenerator[ExecutionResult, None]:
        """Yields the results of a subscription, until the pod completes it."""
        assert self._client
        headers = {**self._headers, "Accept": "text/event-stream"}
        try:
            async with self._client.stream("POST", self._url, json=request.payload, headers=headers) as response:
                if response.headers.get("content-type", "").split(";")[0] != "text/event-stream":
                    _checked(response.status_code, await response.aread())
                    raise TransportConnectionFailed(f"status {response.status_code} without a stream")
                event, data = "", ""
                async for line in response.aiter_lines():
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    if name == "event":
                        event = value
                    elif name == "data":
                        data += value
                    elif not line:
                        if event == "complete":
                            return
                        if event == "next":
                            yield _result(json.loads(data))
                        event, data = "", ""
        except httpx.HTTPError as error:
            raise TransportConnectionFailed(str(error) or type(error).__name__) from error
        raise TransportConnectionFailed("the stream was cut")


def _checked(status: int, body: bytes) -> dict[str, Any]:
    """Returns the decoded answer, or raises the error that its status means."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if status >= 500 or status == 429 or not isinstance(answer, dict):
        raise TransportConnectionFailed(f"status {status}")
    if errors and "data" not in answer:
        raise TransportQueryError(str(errors[0]), errors=errors)
    return answer


def _result(answer: dict[str, Any]) -> ExecutionResult:
    return ExecutionResult(data=answer.get("data"), errors=answer.get("errors"), extensions=answer.get("extensions"))
