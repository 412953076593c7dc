//! [`Topic`]: the stream that a URL names, and the limits of RabbitMQ.

use std::time::Duration;

use crate::broker::{Limits, queue::QUEUE_BYTES, server::Server};

/// Limits of RabbitMQ. Its releases from 4.0 on refuse messages of more than 16 MiB by default. The
/// stream that a pod creates retains a window and 10 minutes.
pub const LIMITS: Limits = Limits {
    payload_bytes: PAYLOAD_BYTES,
    least_retention: Duration::from_secs(600),
    fetched_bytes: PREFETCH as usize * PAYLOAD_BYTES + QUEUE_BYTES as usize,
};

const PAYLOAD_BYTES: usize = 9_000_000;

/// Most messages that the broker sends to a feed before their acknowledgement. The client keeps all
/// of them in memory, and streams have no bound in bytes.
pub(super) const PREFETCH: u16 = 16;

/// Stream, if the URL names none.
const STREAM: &str = "relay.events";

/// User and password, if none are given. RabbitMQ accepts them from its own machine only.
const GUEST: &str = "guest";

/// A stream of RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Server, and the login there.
    pub server: Server,
    /// Virtual host; by default `/`.
    pub vhost: String,
    /// Name of the stream.
    pub stream: String,
}

impl Topic {
    /// Parses `HOST[:PORT]/VHOST?stream=NAME`, the part of the URL after the scheme.
    ///
    /// # Errors
    /// A text that names what is illegal. It completes a sentence that begins with the setting's
    /// name.
    pub fn parse(text: &str, tls: bool) -> Result<Self, String> {
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (authority, vhost) = address.split_once('/').unwrap_or((address, ""));
        let mut server = Server::parse(authority, if tls { 5671 } else { 5672 })?;
        server.tls = tls;
        let stream = match query.split_once('=') {
            None if query.is_empty() => STREAM.to_owned(),
            Some(("stream", name)) => decoded(name).ok_or("has an illegal stream: write it in UTF-8")?,
            _ => return Err("has an unknown option: there is only stream=NAME".to_owned()),
        };
        let is_legal = !stream.is_empty() && !stream.chars().any(char::is_control);
        if !is_legal || stream.len() > 255 || stream.starts_with("amq.") {
            return Err("has no legal stream: give 1 to 255 bytes, not amq.…".to_owned());
        }
        let vhost = decoded(vhost).ok_or("has an illegal virtual host: write it in UTF-8, / as %2f")?;
        let vhost = if vhost.is_empty() { "/".to_owned() } else { vhost };
        Ok(Self { server, vhost, stream })
    }

    /// Returns the name of the topic: the same on every pod, without the host.
    pub(super) fn name(&self) -> String {
        // A slash of the virtual host separates nothing.
        format!("amqp:{}/{}", self.vhost.replace('%', "%25").replace('/', "%2f"), self.stream)
    }

    /// Returns the name of the user.
    pub(super) fn user(&self) -> &str {
        self.server.login.user.as_deref().unwrap_or(GUEST)
    }

    /// Returns the user's password: RabbitMQ has no login without one.
    pub(super) fn password(&self) -> &str {
        self.server.login.password.as_ref().map_or(GUEST, |password| password.reveal())
    }
}

/// Returns the text without its percent-encoding; `None` if that is malformed or no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_names_host_vhost_and_stream() {
        let bare = Topic::parse("mq", false).unwrap();
        assert_eq!((&*bare.server.to_string(), &*bare.name()), ("mq:5672", "amqp:%2f/relay.events"));
        let full = Topic::parse("[::1]:99/a%2fb?stream=orders", true).unwrap();
        assert_eq!((&*full.server.to_string(), &*full.name()), ("[::1]:99", "amqp:a%2fb/orders"));
        let encrypted = Topic::parse("mq/%2f", true).unwrap().server;
        assert!(encrypted.tls && encrypted.port == 5671);
        for (text, expected) in [
            ("", "host"),
            ("mq:x/", "host"),
            ("a b/", "host"),
            ("u:p@mq/", "RELAY_BROKER_USER"),
            ("mq/%2", "virtual host"),
            ("mq/%ff", "virtual host"),
            ("mq/?queue=a", "option"),
            ("mq/?stream=", "stream"),
            ("mq/?stream=amq.a", "stream"),
        ] {
            let error = Topic::parse(text, false).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
