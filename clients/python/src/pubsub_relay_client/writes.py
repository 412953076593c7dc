"""Tokens of writes."""

from __future__ import annotations

from typing import Any

# Most tokens in one request, as the server takes them.
_KEPT = 8


class Writes:
    """Tokens of the latest writes of one user.

    A request that carries them waits until its pod has applied these writes, whatever pod that is.
    Several are kept, since answers may overtake each other.
    """

    def __init__(self) -> None:
        self._tokens: list[str] = []

    def note(self, extensions: dict[str, Any] | None) -> None:
        """Keeps the token in the extensions of a mutation's result."""
        written = (extensions or {}).get("written")
        if isinstance(written, str):
            self._tokens = [*(token for token in self._tokens if token != written), written][-_KEPT:]

    def forget(self) -> None:
        """Forgets all tokens, since the server does not know them."""
        self._tokens = []

    def extend(self, extensions: dict[str, Any] | None) -> dict[str, Any] | None:
        """Adds the tokens to the extensions of a request, unless it has tokens of its own."""
        return {"readAfter": [*self._tokens], **(extensions or {})} if self._tokens else extensions
