//! [`Dialect`]: the WebSocket subprotocols by their names.

/// Which subprotocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `graphql-transport-ws`, of the package graphql-ws.
    Transport,
    /// `graphql-ws`, of the older package subscriptions-transport-ws.
    Legacy,
}

impl Dialect {
    /// The names in the handshake, the preferred one first.
    pub const NAMES: [&'static str; 2] = ["graphql-transport-ws", "graphql-ws"];

    /// The dialect of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "graphql-transport-ws" => Some(Self::Transport),
            "graphql-ws" => Some(Self::Legacy),
            _ => None,
        }
    }
}
