//! [`Transport`]: the ways in which a client connects.
//!
//! The order of [`Transport::ALL`] must never differ from that of the variants: it is their index.

use opentelemetry::KeyValue;

/// Transport that carries many results to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// Server-sent events.
    Sse,
    /// Apollo's multipart protocol.
    Multipart,
}

impl Transport {
    /// All transports. The index of each is its discriminant.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Sse, Self::Multipart];

    /// Returns the name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Sse => "sse",
            Self::Multipart => "multipart",
        }
    }

    /// Returns the label of metrics, which allocates nothing.
    pub(super) fn label(self) -> KeyValue {
        KeyValue::new("transport", self.name())
    }
}
