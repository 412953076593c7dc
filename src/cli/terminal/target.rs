//! [`Target`]: the pod that a command asks, and as which user.
//!
//! A token file is read for each connection, since its token may be replaced. A token must never
//! stand in an error.

use std::{fs, path::PathBuf, time::Duration};

use reqwest::{Client, Url, redirect};
use serde_json::Value;

use super::failure::Failure;

/// Longest time for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// User of a command.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Demo token: a name, or claims as JSON.
    Demo(String),
    /// File with a token.
    File(PathBuf),
}

/// Pod that a command asks, and as which user.
#[derive(Clone, Debug)]
pub struct Target {
    /// URL of the pod's `/graphql`, with `http` or `https`.
    url: Url,
    identity: Identity,
}

impl Target {
    /// Reads a URL: `HOST:PORT`, or with `http`, `https`, `ws` or `wss`. Without a path it is
    /// `/graphql`.
    ///
    /// # Errors
    /// [`Failure::Usage`], if it is no such URL.
    pub fn new(url: &str, identity: Identity) -> Result<Self, Failure> {
        let mut url = parse(url)?;
        if url.path() == "/" {
            url.set_path("/graphql");
        }
        Ok(Self { url, identity })
    }

    /// Reads the admin address of a pod: `HOST:PORT`, or with `http` or `https`. The path is
    /// `path`.
    ///
    /// # Errors
    /// [`Failure::Usage`], if it is no such URL.
    pub(super) fn of_admin(url: &str, path: &str) -> Result<Self, Failure> {
        let mut url = parse(url)?;
        url.set_path(path);
        Ok(Self { url, identity: Identity::Demo(String::new()) })
    }

    /// Returns the URL as people read it.
    pub(super) fn name(&self) -> &str {
        self.url.as_str()
    }

    /// Returns the user as people read it.
    pub(super) fn user(&self) -> String {
        match &self.identity {
            Identity::Demo(name) => name.clone(),
            Identity::File(path) => format!("the user of {}", path.display()),
        }
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the `Authorization` of the user.
    ///
    /// # Errors
    /// [`Failure::Usage`], if the file cannot be read.
    pub(super) fn authorization(&self) -> Result<String, Failure> {
        let token = match &self.identity {
            // A token has no spaces, but JSON may.
            Identity::Demo(name) => match serde_json::from_str(name) {
                Ok(claims @ Value::Object(_)) => claims.to_string(),
                _ => name.clone(),
            },
            Identity::File(path) => fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("--token-file cannot be read: {error}")))?,
        };
        let token = token.trim();
        Ok(if token.contains(' ') && !token.starts_with('{') {
            token.to_owned()
        } else {
            format!("Bearer {token}")
        })
    }

    /// Creates a client for one request.
    pub(super) fn client(&self) -> reqwest::Result<Client> {
        let client =
            Client::builder().http1_only().connect_timeout(PATIENCE).redirect(redirect::Policy::none());
        // The client honours `HTTPS_PROXY`, but no proxy reaches a pod on this machine.
        let is_local = matches!(self.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if is_local { client.no_proxy().build() } else { client.build() }
    }
}

/// Parses a URL of a pod, which may lack its scheme.
fn parse(url: &str) -> Result<Url, Failure> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let scheme = match scheme {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        _ => "",
    };
    let parsed = Url::parse(&format!("{scheme}://{rest}")).ok();
    let is_fit = |url: &Url| url.has_host() && url.username().is_empty() && url.password().is_none();
    parsed.filter(is_fit).ok_or_else(|| {
        let text =
            "--url is no URL of a pod: write it like localhost:3000 or wss://relay.example.com/graphql";
        Failure::Usage(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_may_be_short() {
        let of = |url: &str| Target::new(url, Identity::Demo("ZOLO".to_owned())).map(|it| it.url.to_string());
        for (url, expected) in [
            ("localhost:3000", "http://localhost:3000/graphql"),
            ("ws://127.0.0.1:1/", "http://127.0.0.1:1/graphql"),
            ("wss://relay.example.com/api/graphql", "https://relay.example.com/api/graphql"),
        ] {
            assert_eq!(of(url).as_deref(), Ok(expected));
        }
        for url in ["", "ftp://a", "http://", "https://user:secret@a"] {
            assert!(matches!(of(url), Err(Failure::Usage(text)) if !text.contains("secret")), "{url}");
        }
    }

    #[test]
    fn claims_become_one_token() {
        let of = |name: &str| Target::new("a", Identity::Demo(name.to_owned())).unwrap().authorization();
        assert_eq!(of("ZOLO"), Ok("Bearer ZOLO".to_owned()));
        assert_eq!(of(r#"{"sub": "bob"}"#), Ok(r#"Bearer {"sub":"bob"}"#.to_owned()));
    }
}
