//! [`Topic`]: which tables of which server a pod uses, and the limits of PostgreSQL.
//!
//! The name of a topic becomes part of SQL, so only legal names get here by a URL.

use std::time::Duration;

use crate::broker::{Limits, server::Server};

/// Limits of a topic in PostgreSQL. They are those of Pub/Sub, so that a topic can move there. The
/// log keeps the window and `EXTRA_RETENTION`.
pub const LIMITS: Limits =
    Limits { payload_bytes: 9_000_000, least_retention: EXTRA_RETENTION, fetched_bytes: 22 << 20 };

/// Time for which the log keeps events beyond the replay window. A pod that was away for so long
/// can still follow.
pub(super) const EXTRA_RETENTION: Duration = Duration::from_secs(600);

/// Port of PostgreSQL.
const PORT: u16 = 5432;

/// User, if none is given.
const USER: &str = "relay";

/// Topic, if the URL names none.
pub const TOPIC: &str = "relay";

/// Longest name of a topic, in bytes: a name in PostgreSQL has 63, and that of the notes is longer
/// by `_events`.
const MAX_TOPIC: usize = 56;

/// A topic in a PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Server, and the login there.
    pub server: Server,
    /// Name of the database.
    pub database: String,
    /// Name of the schema with the tables.
    pub name: String,
}

impl Topic {
    /// Parses `HOST[:PORT]/DATABASE[?topic=NAME&tls=on|off]`. Without `tls` it is on, unless the
    /// host is this machine.
    ///
    /// # Errors
    /// A text that names what is illegal. It completes a sentence that begins with the setting's
    /// name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (authority, database) =
            place.rsplit_once('/').ok_or("names no database: write postgres://HOST/DATABASE")?;
        let mut server = Server::parse(authority, PORT)?;
        let is_database = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if database.is_empty() || database.len() > 63 || !database.chars().all(is_database) {
            return Err("has no legal database: give 1 to 63 of A-Z a-z 0-9 _ - .".to_owned());
        }
        server.tls = !server.is_loopback();
        let mut name = TOPIC;
        for (key, value) in query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        {
            match (key, value) {
                ("topic", topic) if is_topic(topic) => name = topic,
                ("topic", _) => {
                    return Err(format!(
                        "has no legal topic: give 1 to {MAX_TOPIC} of a-z 0-9 _ with a letter first, not pg_"
                    ));
                }
                ("tls", "on") => server.tls = true,
                ("tls", "off") => server.tls = false,
                _ => {
                    return Err(
                        "has an unknown option: there are topic=NAME and tls=on or tls=off".to_owned()
                    );
                }
            }
        }
        Ok(Self { server, database: database.to_owned(), name: name.to_owned() })
    }

    /// Returns the full name of the topic, without the host, which may differ between pods.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("postgres:{}/{}", self.database, self.name)
    }

    /// Returns the name of the user.
    #[must_use]
    pub fn user(&self) -> &str {
        self.server.login.user.as_deref().unwrap_or(USER)
    }
}

/// Returns whether the text may name a topic. It becomes part of SQL, unquoted.
fn is_topic(text: &str) -> bool {
    text.len() <= MAX_TOPIC
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.starts_with("pg_")
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_names_database_and_topic() {
        let topic = Topic::parse("db.example.com:6432/shop?topic=news").unwrap();
        assert_eq!(
            (&*topic.server.host, topic.server.port, topic.server.tls),
            ("db.example.com", 6432, true)
        );
        assert_eq!(topic.full_name(), "postgres:shop/news");
        let topic = Topic::parse("localhost/shop").unwrap();
        assert_eq!(
            (topic.server.port, topic.server.tls, &*topic.full_name()),
            (5432, false, "postgres:shop/relay")
        );
        assert!(Topic::parse("localhost/shop?tls=on").unwrap().server.tls);
        assert!(!Topic::parse("db/shop?topic=a&tls=off").unwrap().server.tls);
        for text in [
            "",
            "db",
            "db/",
            "/shop",
            "db/a b",
            "db/shop?topic=",
            "db/shop?topic=pg_x",
            "db/shop?topic=X",
            "db/shop?topic=1a",
            "db/shop?topic=a;b",
            "db/shop?tls=maybe",
            "db/shop?sslmode=require",
            "me:pw@db/shop",
        ] {
            assert!(Topic::parse(text).is_err(), "{text}");
        }
    }
}
