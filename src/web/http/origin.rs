//! [`Origins`]: which web pages may send requests to the pod.
//!
//! A browser sends the page's origin. Other clients send none and are let through. CORS does not
//! protect a WebSocket, so its handshake checks the origin here as well.

use axum::http::{
    HeaderMap, HeaderName,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Origins of the pages that are let through. A page from the pod's own origin always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// No other origin.
    Same,
    /// Any origin on this machine, for development.
    Localhost,
    /// These origins.
    List(Vec<AllowedOrigin>),
    /// Any origin: only the token protects.
    Any,
}

impl Origins {
    /// Reports whether a page of this origin may send a request with these headers.
    #[must_use]
    pub fn allow(&self, origin: &[u8], headers: &HeaderMap) -> bool {
        let Ok(text) = std::str::from_utf8(origin) else { return false };
        if *self == Self::Any {
            return true;
        }
        let origin = Origin::parse(text);
        let own = || origin.as_ref().is_some_and(|origin| origin.is_own(headers));
        match self {
            Self::Any => true,
            Self::Same => own(),
            Self::Localhost => own() || origin.as_ref().is_some_and(|origin| is_local(&origin.host)),
            Self::List(list) => own() || list.iter().any(|allowed| allowed.matches(text, origin.as_ref())),
        }
    }

    /// Reports whether a setting names the page of this origin. Only such pages may use cookies of
    /// another site. `*`, `null` and `file://` name no page.
    #[must_use]
    pub fn list(&self, origin: &[u8]) -> bool {
        let origin = std::str::from_utf8(origin).ok().and_then(Origin::parse);
        match (self, origin) {
            (Self::List(list), Some(origin)) => list.iter().any(|allowed| allowed.matches_page(&origin)),
            _ => false,
        }
    }

    /// Reports whether a page that is listed, or one of the pod's own origin, made the request.
    /// Only then may its cookies stand for a viewer.
    #[must_use]
    pub fn trust(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            // A browser sends no `Origin` with a GET to the page's own. No page can forge this one.
            return headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
        };
        let text = origin.to_str().ok();
        let is_own = text.and_then(Origin::parse).is_some_and(|origin| origin.is_own(headers));
        is_own || self.list(origin.as_bytes())
    }

    /// Reports whether a request with these headers may run on a pod whose tokens are no secret,
    /// and which listens on `port`. It may not if a page can have sent it whose own name was made
    /// to resolve to the pod (DNS rebinding).
    ///
    /// Such a page sends its name in `Host`, with the port of the pod. Its `Origin`, if it sends
    /// one, is never `https`: the pod itself does not speak TLS.
    #[must_use]
    pub fn allow_host(&self, headers: &HeaderMap, port: u16) -> bool {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(Ok(authority)) = text(HOST).map(str::parse::<Authority>) else { return false };
        let is_https = text(ORIGIN).and_then(Origin::parse).is_some_and(|origin| origin.scheme != "http");
        if is_https || authority.port_u16().unwrap_or(80) != port {
            return true;
        }
        let name = authority.host().to_ascii_lowercase();
        let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        let is_listed = match self {
            Self::Any => true,
            Self::List(list) => list.iter().any(|allowed| allowed.matches_host(&name)),
            Self::Same | Self::Localhost => false,
        };
        is_address || is_local(&name) || is_listed
    }
}

/// Reports whether the name is of this machine, whatever a name server answers (RFC 6761, 6.3).
fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]") || host.ends_with(".localhost")
}

/// An origin that a setting allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Origin that browsers do not name: `null` (sandboxed pages), `file://` (shells).
    Opaque(&'static str),
    /// This origin; with `any_subdomain`, each origin with one more label before its host.
    Page {
        /// Scheme, host and port.
        origin: Origin,
        /// Whether the setting wrote `*.` before the host.
        any_subdomain: bool,
    },
}

impl AllowedOrigin {
    /// Reads `https://app.example.com`, `https://*.example.com`, `null` or `file://`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if let Some(opaque) = ["null", "file://"].into_iter().find(|opaque| *opaque == text) {
            return Some(Self::Opaque(opaque));
        }
        let any_subdomain = text.contains("://*.");
        let origin = Origin::parse(&text.replacen("://*.", "://", 1))?;
        Some(Self::Page { origin, any_subdomain })
    }

    fn matches(&self, text: &str, origin: Option<&Origin>) -> bool {
        match self {
            Self::Opaque(opaque) => text.eq_ignore_ascii_case(opaque),
            Self::Page { .. } => origin.is_some_and(|origin| self.matches_page(origin)),
        }
    }

    fn matches_page(&self, origin: &Origin) -> bool {
        match self {
            Self::Opaque(_) => false,
            Self::Page { origin: allowed, any_subdomain } => {
                (&allowed.scheme, allowed.port) == (&origin.scheme, origin.port)
                    && is_host(&origin.host, &allowed.host, *any_subdomain)
            }
        }
    }

    fn matches_host(&self, host: &str) -> bool {
        match self {
            Self::Opaque(_) => false,
            Self::Page { origin, any_subdomain } => is_host(host, &origin.host, *any_subdomain),
        }
    }

    /// Returns the origin as a browser sends it; `None` if the setting does not name one page.
    #[must_use]
    pub fn example(&self) -> Option<String> {
        match self {
            Self::Page { origin, any_subdomain: false } => Some(origin.to_string()),
            _ => None,
        }
    }
}

fn is_host(host: &str, allowed: &str, any_subdomain: bool) -> bool {
    match any_subdomain {
        false => host == allowed,
        true => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == allowed),
    }
}

/// Origin of a page, in one spelling: lower case, `ws` as `http`, the default port left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Reads an origin; `None` if the text has more than scheme, host and port, or less.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        // Desktop and mobile shells have schemes of their own (capacitor://localhost).
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let scheme = match scheme {
            "ws" => "http",
            "wss" => "https",
            other => other,
        };
        if !is_scheme || authority.contains(['@', '/', '?', '#', '*']) {
            return None;
        }
        let parsed: Authority = authority.parse().ok()?;
        // `host:` and ports above 65535 parse as an authority without a port.
        let port = parsed.port_u16().filter(|port| *port > 0);
        let host = parsed.host().to_owned();
        if host.is_empty() || port.is_none() != (authority.len() == host.len()) {
            return None;
        }
        let port = port.filter(|port| default_port(scheme) != Some(*port));
        Some(Self { scheme: scheme.to_owned(), host, port })
    }

    /// Reports whether the request's `Host` is the origin's own. Behind a balancer the pod does not
    /// know the scheme, so a `Host` without a port stands for the origin's default port.
    fn is_own(&self, headers: &HeaderMap) -> bool {
        let Some(default) = default_port(&self.scheme) else { return false };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.and_then(|host| host.parse::<Authority>().ok());
        host.is_some_and(|host| {
            host.host().eq_ignore_ascii_case(&self.host)
                && host.port_u16().unwrap_or(default) == self.port.unwrap_or(default)
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scheme, host, port } = self;
        write!(f, "{scheme}://{host}")?;
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow_on(host: &str, origins: &Origins, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        origins.allow(origin.as_bytes(), &headers)
    }

    fn allow(origins: &Origins, origin: &str) -> bool {
        allow_on("relay.example:8080", origins, origin)
    }

    fn list(texts: &[&str]) -> Origins {
        Origins::List(texts.iter().map(|text| AllowedOrigin::parse(text).unwrap()).collect())
    }

    #[test]
    fn own_page_is_always_let_through() {
        for origins in [Origins::Same, Origins::Localhost, Origins::List(Vec::new()), Origins::Any] {
            assert!(allow(&origins, "https://relay.example:8080"));
        }
    }

    #[test]
    fn own_origin_ignores_spelling() {
        for (host, origin, is_own) in [
            ("relay.example:443", "wss://relay.example", true),
            ("relay.example:443", "https://relay.example", true),
            ("relay.example", "https://relay.example:443", true),
            ("relay.example", "ws://relay.example:80", true),
            ("Relay.Example", "https://relay.EXAMPLE", true),
            ("[::1]:3000", "http://[::1]:3000", true),
            ("relay.example:443", "http://relay.example", false),
            ("relay.example:8443", "https://relay.example", false),
            ("relay.example", "https://relay.example:8443", false),
            ("relay.example", "https://relay.example.evil.example", false),
            ("relay.example", "https://user@relay.example", false),
            ("relay.example", "https://relay.example/", false),
            ("relay.example", "capacitor://relay.example", false),
            ("relay.example", "relay.example", false),
            ("relay.example", "https://relay.example:", false),
            ("relay.example", "https://relay.example:99999", false),
        ] {
            assert_eq!(allow_on(host, &Origins::Same, origin), is_own, "{host} {origin}");
        }
    }

    #[test]
    fn foreign_page_must_be_listed() {
        for origin in
            ["https://evil.example", "https://localhost.evil.example", "null", "", "https://relay.example"]
        {
            assert!(!allow(&Origins::Same, origin), "{origin}");
            assert!(!allow(&Origins::Localhost, origin), "{origin}");
        }
        let listed = list(&["https://app.example", "wss://shop.example:443"]);
        for origin in ["https://app.example", "HTTPS://App.example:443", "wss://app.example"] {
            assert!(allow(&listed, origin), "{origin}");
        }
        assert!(allow(&listed, "https://shop.example"));
        assert!(!allow(&listed, "http://app.example"));
        assert!(allow(&Origins::Any, "https://evil.example"));
    }

    #[test]
    fn wildcard_stands_for_one_label() {
        let listed = list(&["https://*.example.com"]);
        assert!(allow(&listed, "https://app.example.com"));
        for origin in [
            "https://example.com",
            "https://a.b.example.com",
            "https://.example.com",
            "https://app.example.com:8443",
            "http://app.example.com",
            "https://app.example.com.evil.example",
        ] {
            assert!(!allow(&listed, origin), "{origin}");
        }
        for text in ["https://*", "https://a.*.example.com", "*.example.com", "https://*.*.example.com"] {
            assert_eq!(AllowedOrigin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn opaque_origin_must_be_listed() {
        let listed = list(&["null", "file://"]);
        assert!(allow(&listed, "null") && allow(&listed, "file://"));
        assert!(!allow(&list(&["null"]), "file://") && !allow(&Origins::Localhost, "file://"));
    }

    #[test]
    fn development_page_runs_on_any_local_port() {
        for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:8080"] {
            assert!(allow(&Origins::Localhost, origin), "{origin}");
        }
    }

    #[test]
    fn rebound_host_is_refused() {
        let listed = list(&["https://app.example", "https://*.shop.example"]);
        let headers = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            headers.extend(origin.map(|origin| (ORIGIN, origin.parse().unwrap())));
            headers
        };
        for (origins, host, is_allowed) in [
            (&Origins::Localhost, "127.0.0.1:3000", true),
            (&Origins::Localhost, "[::1]:3000", true),
            (&Origins::Localhost, "10.0.0.7:3000", true),
            (&Origins::Localhost, "LOCALHOST:3000", true),
            (&Origins::Localhost, "relay.localhost:3000", true),
            (&Origins::Localhost, "rebound.evil.example:3000", false),
            (&Origins::Localhost, "127.0.0.1.evil.example:3000", false),
            (&Origins::Localhost, "relay.svc", true),
            (&Origins::Localhost, "", false),
            (&listed, "app.example:3000", true),
            (&listed, "eu.shop.example:3000", true),
            (&listed, "evil.example:3000", false),
            (&Origins::Any, "evil.example:3000", true),
        ] {
            assert_eq!(origins.allow_host(&headers(host, None), 3000), is_allowed, "{host}");
        }
        for (host, origin, is_allowed) in [
            ("rebound.example:3000", "http://rebound.example:3000", false),
            ("rebound.example:3000", "null", false),
            ("relay.example", "http://relay.example", true),
            ("relay.example", "https://relay.example", true),
            ("relay.example:3000", "https://relay.example:3000", true),
        ] {
            let headers = headers(host, Some(origin));
            assert_eq!(Origins::Localhost.allow_host(&headers, 3000), is_allowed, "{host} {origin}");
        }
    }
}
