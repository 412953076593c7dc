"""Typed errors of what ends a subscription for good."""

from __future__ import annotations

import re
from typing import Any

from gql.transport.exceptions import TransportQueryError

CURES = {
    "BAD_CURSOR": (
        "The stored cursor belongs to another topic or to an older release, and was removed. "
        "Query the present state, then subscribe again."
    ),
    "UNAUTHENTICATED": "The pod refused the token. Check what `token` returns, then try again.",
    "BAD_READ_AFTER": (
        "The tokens of earlier writes belong to another topic or to an older release, and were forgotten. "
        "Send the request again."
    ),
    "NOT_CAUGHT_UP": "The pod has not received an earlier write yet. Send the request again after a second.",
}

# A refused token, unless it has expired or cannot be checked at the moment.
_RETRIABLE = re.compile(r"^token expired$|at the moment")


class RelayError(Exception):
    """Error with a code for programs, and a message that says what to do.

    Codes: BAD_CURSOR, UNAUTHENTICATED, NOT_A_RELAY, NOT_A_REQUEST, TOKEN_FAILED, STORAGE_FAILED (a
    warning), or the code that the server gives to an error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def of_errors(errors: list[Any]) -> RelayError:
    """Makes the error of a refusal from its GraphQL errors."""
    first = errors[0] if errors else {}
    first = first if isinstance(first, dict) else getattr(first, "formatted", {"message": str(first)})
    code = (first.get("extensions") or {}).get("code", "REFUSED")
    text = first.get("message", "the request was refused")
    return RelayError(code, f"{text} {CURES[code]}" if code in CURES else text)


def fatal(error: Exception) -> RelayError | None:
    """Returns the typed error of a failure that no retry heals; None for one that a retry may heal."""
    if isinstance(error, RelayError):
        return error
    if isinstance(error, TransportQueryError):
        return of_errors(error.errors or [])
    closed = error.__cause__
    frame = getattr(closed, "rcvd", None)
    if getattr(frame, "code", None) in (4401, 4403) and not _RETRIABLE.search(frame.reason):
        return RelayError("UNAUTHENTICATED", f"{CURES['UNAUTHENTICATED']} ({frame.reason})")
    return None
