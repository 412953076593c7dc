//! [`Origins`]: which web pages may send requests to the pod.
//!
//! A browser sends the page's origin. Other clients send none and are let through. CORS does not
//! protect a WebSocket, so its handshake checks the origin here as well.

use axum::http::{HeaderMap, Uri, header::HOST};

/// Origins of the pages that are let through. A page from the pod's own origin always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// No other origin.
    Same,
    /// Any origin on this machine, for development.
    Localhost,
    /// These origins, each `scheme://host[:port]`.
    List(Vec<String>),
    /// Any origin: only the token protects.
    Any,
}

impl Origins {
    /// Reports whether a page of this origin may send a request with these headers.
    #[must_use]
    pub fn allow(&self, origin: &[u8], headers: &HeaderMap) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        let own = || {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host)
        };
        match self {
            Self::Any => true,
            Self::Same => own(),
            Self::Localhost => own() || is_local(origin),
            Self::List(list) => own() || list.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
        }
    }
}

fn is_local(origin: &str) -> bool {
    let uri = origin.parse::<Uri>();
    uri.is_ok_and(|uri| matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(origins: &Origins, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "relay.example:8080".parse().unwrap());
        origins.allow(origin.as_bytes(), &headers)
    }

    #[test]
    fn own_page_is_always_let_through() {
        for origins in [Origins::Same, Origins::Localhost, Origins::List(Vec::new()), Origins::Any] {
            assert!(allow(&origins, "https://relay.example:8080"));
        }
    }

    #[test]
    fn foreign_page_passes_only_if_listed() {
        for origin in
            ["https://evil.example", "https://localhost.evil.example", "null", "", "https://relay.example"]
        {
            assert!(!allow(&Origins::Same, origin), "{origin}");
            assert!(!allow(&Origins::Localhost, origin), "{origin}");
        }
        let list = Origins::List(vec!["https://app.example".to_owned()]);
        assert!(allow(&list, "https://app.example"));
        assert!(!allow(&list, "http://app.example"));
        assert!(allow(&Origins::Any, "https://evil.example"));
    }

    #[test]
    fn development_pages_run_on_any_local_port() {
        for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:8080"] {
            assert!(allow(&Origins::Localhost, origin), "{origin}");
        }
    }
}
