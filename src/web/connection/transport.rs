//! [`Transport`]: the ways in which a connection comes.

/// A way to tell a client of many results.
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
    /// All of them, each at its own place.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Sse, Self::Multipart];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Sse => "sse",
            Self::Multipart => "multipart",
        }
    }
}
