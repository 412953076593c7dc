"""Subscriptions of pubsub-relay that go on where they were, and requests that read what they wrote."""

from .errors import RelayError
from .store import MemoryStore, Store
from .transport import RelayTransport
from .watch import watch
from .writes import Writes

__all__ = ["MemoryStore", "RelayError", "RelayTransport", "Store", "Writes", "watch"]
