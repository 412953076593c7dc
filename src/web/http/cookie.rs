//! [`CookieName`]: the cookie that may hold a client's token.
//!
//! A browser adds cookies by itself, also to requests that a page of another site makes. So a
//! cookie must never stand for a viewer unless the request shows that a trusted page made it: see
//! [`Origins::trust`].

use axum::http::{HeaderMap, HeaderValue, header::COOKIE};

use super::origin::Origins;

/// Longest name, in bytes. A longer one is refused.
const MAX_NAME_BYTES: usize = 64;

/// Name of the cookie that may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(Box<str>);

impl CookieName {
    /// Reads a name, such as `__Host-session`; `None` if no cookie can have it (RFC 6265, 4.1.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_token);
        is_name.then(|| Self(text.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the token in the request's cookies, if a trusted page made the request.
    #[must_use]
    pub fn token<'h>(&self, headers: &'h HeaderMap, origins: &Origins) -> Option<&'h str> {
        if !origins.trust(headers) {
            return None;
        }
        let lines = headers.get_all(COOKIE).into_iter().filter_map(|line: &HeaderValue| line.to_str().ok());
        let mut cookies =
            lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = cookies.find(|(name, _)| *name == &*self.0)?;
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{
        HeaderName,
        header::{HOST, ORIGIN},
    };

    use super::{super::origin::AllowedOrigin, *};

    const PAGE: &str = "https://app.example";

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn origins(list: &str) -> Origins {
        Origins::List(list.split(' ').map(|origin| AllowedOrigin::parse(origin).unwrap()).collect())
    }

    fn token(pairs: &[(HeaderName, &'static str)], origins: &Origins) -> Option<String> {
        let mut all = vec![(HOST, "relay.example"), (COOKIE, "a=1; session=\"t\""), (COOKIE, "session=u")];
        all.extend_from_slice(pairs);
        CookieName::parse("session").unwrap().token(&headers(&all), origins).map(str::to_owned)
    }

    #[test]
    fn cookie_counts_for_trusted_pages_only() {
        let site = HeaderName::from_static("sec-fetch-site");
        let listed = origins(&format!("{PAGE} https://*.wild.example null file://"));
        for (pairs, is_trusted) in [
            (vec![(ORIGIN, PAGE)], true),
            (vec![(ORIGIN, "https://a.wild.example")], true),
            (vec![(ORIGIN, "https://relay.example")], true),
            (vec![(ORIGIN, "https://evil.example")], false),
            (vec![(ORIGIN, "null")], false),
            (vec![(ORIGIN, "file://")], false),
            (vec![], false),
            (vec![(site.clone(), "same-origin")], true),
            (vec![(site.clone(), "same-site")], false),
            (vec![(site.clone(), "none")], false),
            (vec![(site, "same-origin"), (ORIGIN, "https://evil.example")], false),
        ] {
            assert_eq!(token(&pairs, &listed).as_deref(), is_trusted.then_some("t"), "{pairs:?}");
        }
        for (origins, own) in [(Origins::Any, true), (Origins::Localhost, true), (Origins::Same, true)] {
            assert_eq!(token(&[(ORIGIN, PAGE)], &origins), None, "{origins:?}");
            assert_eq!(token(&[(ORIGIN, "http://localhost:5173")], &origins), None, "{origins:?}");
            assert_eq!(token(&[(ORIGIN, "https://relay.example")], &origins).is_some(), own, "{origins:?}");
        }
    }

    #[test]
    fn name_is_token_of_rfc() {
        for (name, is_name) in [
            ("session", true),
            ("__Host-s.1", true),
            ("", false),
            ("a b", false),
            ("a=b", false),
            ("ä", false),
        ] {
            assert_eq!(CookieName::parse(name).is_some(), is_name, "{name}");
        }
        assert!(CookieName::parse(&"x".repeat(65)).is_none());
    }
}
