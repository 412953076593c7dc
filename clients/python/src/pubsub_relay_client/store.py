"""Stores of cursors."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Store of cursors. Each method may raise: the client reports it once, and goes on in memory."""

    def load(self, key: str) -> str | None:
        """Returns the cursor of this key, if there is one."""

    def save(self, key: str, cursor: str) -> None:
        """Keeps the cursor under this key."""

    def remove(self, key: str) -> None:
        """Forgets the cursor of this key."""


class MemoryStore:
    """Store that forgets everything with the process."""

    def __init__(self) -> None:
        self._cursors: dict[str, str] = {}

    def load(self, key: str) -> str | None:
        """Returns the cursor of this key, if there is one."""
        return self._cursors.get(key)

    def save(self, key: str, cursor: str) -> None:
        """Keeps the cursor under this key."""
        self._cursors[key] = cursor

    def remove(self, key: str) -> None:
        """Forgets the cursor of this key."""
        self._cursors.pop(key, None)
