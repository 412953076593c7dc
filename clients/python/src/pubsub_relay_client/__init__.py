"""Subscriptions that go on where they were, on any pod of pubsub-relay."""

from .errors import RelayError
from .store import MemoryStore, Store
from .watch import watch

__all__ = ["MemoryStore", "RelayError", "Store", "watch"]
