"""Tokens of users."""

from __future__ import annotations

import inspect
from typing import Awaitable, Callable

from .errors import RelayError

Token = Callable[[], "str | Awaitable[str]"]


async def authorization(token: Token | None) -> str | None:
    """Returns the value of the header for a fresh token. Raises RelayError if there is none."""
    if token is None:
        return None
    try:
        value = token()
        return f"Bearer {await value if inspect.isawaitable(value) else value}"
    except Exception as cause:  # it is the application's function
        text = f"The function `token` failed: {cause}. Let it return a valid token, then try again."
        raise RelayError("TOKEN_FAILED", text) from cause
