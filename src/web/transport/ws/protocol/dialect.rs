//! [`Dialect`]: the WebSocket subprotocols by their names.
//!
//! The names must never change: stock clients offer them in the handshake.

/// Subprotocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `graphql-transport-ws`, of the package graphql-ws.
    Transport,
    /// `graphql-ws`, of the older package subscriptions-transport-ws.
    Legacy,
}

impl Dialect {
    /// Names in the handshake.
    pub const NAMES: [&'static str; 2] = ["graphql-transport-ws", "graphql-ws"];

    /// Parses a name of the handshake; `None` if no dialect has it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "graphql-transport-ws" => Some(Self::Transport),
            "graphql-ws" => Some(Self::Legacy),
            _ => None,
        }
    }
}
