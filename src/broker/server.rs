//! [`Server`]: address, login and TLS of a broker that is a server of its own.
//!
//! A password never stands in the URL, since URLs end up in logs. A certificate is always verified.
//! Nothing here may print a password.

use std::{fmt, net::IpAddr, path::PathBuf};

/// Server of a broker, and the login there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether the connection is encrypted. Then the server's certificate is verified.
    pub tls: bool,
    /// User, password and certificate authority.
    pub login: Login,
}

/// Login at a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Name of the user; `None`: the default of the broker.
    pub user: Option<String>,
    /// Password; `None`: none is sent.
    pub password: Option<Password>,
    /// PEM file with the certificates of the authorities that are trusted; `None`: those of the
    /// system.
    pub ca_file: Option<PathBuf>,
}

/// Password, which no debug print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps the text.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// Returns the password itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Server {
    /// Parses `HOST[:PORT]`. Without TLS until the adapter decides on it.
    ///
    /// # Errors
    /// A text that completes a sentence with the setting's name. It never repeats the URL.
    pub fn parse(authority: &str, default_port: u16) -> Result<Self, String> {
        if authority.contains('@') {
            return Err("holds a user or a password: give them as RELAY_BROKER_USER and \
                        RELAY_BROKER_PASSWORD_FILE"
                .to_owned());
        }
        let illegal = || "has no legal host: write HOST or HOST:PORT".to_owned();
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(illegal)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| illegal())?;
                (host, port.strip_prefix(':').or((port.is_empty()).then_some("")).ok_or_else(illegal)?)
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(illegal());
        }
        let port = match port {
            "" => default_port,
            port => {
                let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
                port.parse().ok().filter(|port| is_plain && *port > 0).ok_or_else(illegal)?
            }
        };
        Ok(Self { host: host.to_owned(), port, tls: false, login: Login::default() })
    }

    /// Returns whether the server is on this machine, so that no other one can reach it by this
    /// address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Writes `HOST:PORT`.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_parsed() {
        for (text, host, port, is_loopback) in [
            ("db.example.com", "db.example.com", 5432, false),
            ("db_1:1", "db_1", 1, false),
            ("10.0.0.1:5433", "10.0.0.1", 5433, false),
            ("127.0.0.1", "127.0.0.1", 5432, true),
            ("localhost:5", "localhost", 5, true),
            ("[::1]:5", "::1", 5, true),
            ("[2001:db8::1]", "2001:db8::1", 5432, false),
        ] {
            let server = Server::parse(text, 5432).unwrap();
            assert_eq!(
                (&*server.host, server.port, server.is_loopback()),
                (host, port, is_loopback),
                "{text}"
            );
        }
        for text in ["", ":5", "a b", "a:0", "a:+5", "a:70000", "a:5:6", "[::1", "[::1]5", "[x]:5", "a/b"] {
            assert!(Server::parse(text, 5432).is_err(), "{text}");
        }
    }

    #[test]
    fn password_is_refused_and_never_printed() {
        let refused = Server::parse("me:secret@db", 5432).unwrap_err();
        assert!(refused.contains("RELAY_BROKER_PASSWORD_FILE") && !refused.contains("secret"), "{refused}");
        let mut server = Server::parse("db", 5432).unwrap();
        server.login.password = Some(Password::new("secret"));
        assert!(!format!("{server:?} {server}").contains("secret"));
    }
}
