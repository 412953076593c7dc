//! The page at `/`: GraphiQL, served completely by this pod and bundled by `build.rs` from `page/`.
//! A pod of `relay cluster` serves the [`story`] there, and GraphiQL at `/graphiql`.
//!
//! It must run without the internet. What it shows may reach no server but this pod, or the pods of
//! its own cluster. It holds no secret: the user types the token.

pub mod story;

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Router,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use self::story::Story;

/// Files of the bundle: names and compressed contents. Empty if the pod was built without npm.
static BUNDLE: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Frame of each page.
const HTML: &str = include_str!("../../page/page.html");

/// Body of the page without GraphiQL, for an empty bundle.
const PLAIN_HTML: &str = include_str!("../../page/plain.html");

/// What a page of the bundle shows without JavaScript.
const NO_SCRIPT: &str = "<noscript>This page needs JavaScript. Programs find GraphQL at <code>graphql</code>, beside \
                         this page.</noscript>";

/// Content security policy: everything comes from this pod, and requests go to this pod only.
/// Monaco, the editor of GraphiQL, makes style sheets while it runs, hence `unsafe-inline` for
/// styles. It shows icons from `data:`.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Headers of every answer, of a 304 too.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    // A file keeps its name when its content changes. So a page finds its files on old and new pods
    // during a rollout, and the browser revalidates each time.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// Tab that the page opens with.
#[derive(Clone, Debug)]
pub struct Tab {
    /// A GraphQL document.
    pub query: Arc<str>,
    /// Text in the place of the token: a token that is no secret, or a word that asks for one.
    pub token: Arc<str>,
}

/// Builds the routes of a page that opens with these tabs, and of the story of a cluster.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(tabs: &[Tab], story: Option<&Story>) -> Router<S> {
    let story = story.filter(|_| !BUNDLE.is_empty());
    let cluster = story.map_or_else(|| "null".to_owned(), |story| attribute(&story.to_json()));
    let page = if BUNDLE.is_empty() {
        html("pubsub-relay", "", PLAIN_HTML)
    } else {
        let tabs = attribute(&headers(tabs));
        bundled("pubsub-relay", "page", &format!(r#"data-tabs="{tabs}" data-cluster="{cluster}""#))
    };
    let router = match story {
        None => page.route(Router::new(), "/"),
        Some(story) => {
            let policy = story.policy();
            let router = page.route(story.routes(Router::new()), "/graphiql");
            let page = bundled("pubsub-relay: the story", "story", &format!(r#"data-cluster="{cluster}""#));
            File { policy, ..page }.route(router, "/")
        }
    };
    BUNDLE.iter().fold(router, |router, (name, content)| {
        let gzip = HeaderValue::from_static("gzip");
        let file = File::new(media_type(name), Some(gzip), Bytes::from_static(content));
        file.route(router, &format!("/page/{name}"))
    })
}

/// Returns the page of this name in the bundle. `data` are attributes of its element.
fn bundled(title: &str, name: &str, data: &str) -> File {
    let links = format!(
        r#"<link rel="icon" href="page/icon.svg">
    <link rel="stylesheet" href="page/{name}.css">
    <script type="module" src="page/{name}.js"></script>"#
    );
    html(title, &links, &format!(r#"<div id="{name}" {data}></div>{NO_SCRIPT}"#))
}

fn html(title: &str, links: &str, body: &str) -> File {
    let text = HTML.replace("{{title}}", title).replace("{{links}}", links).replace("{{body}}", body);
    File::new(HeaderValue::from_static("text/html; charset=utf-8"), None, text.into())
}

/// Returns the tabs as GraphiQL takes them.
fn headers(tabs: &[Tab]) -> Value {
    let tabs = tabs.iter().map(|Tab { query, token }| {
        let headers = format!("{:#}", json!({ "Authorization": format!("Bearer {token}") }));
        json!({ "query": query, "headers": headers })
    });
    Value::from_iter(tabs)
}

/// Returns JSON, escaped for an HTML attribute.
fn attribute(json: &Value) -> String {
    json.to_string().replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

fn media_type(name: &str) -> HeaderValue {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    HeaderValue::from_static(match extension {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "ttf" => "font/ttf",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    })
}

/// File that does not change while the pod runs.
#[derive(Clone)]
struct File {
    media_type: HeaderValue,
    /// Compression of the content. A compressed file is never sent otherwise: every browser reads
    /// gzip, and the pod does not compress it each time.
    encoding: Option<HeaderValue>,
    content: Bytes,
    /// Content security policy.
    policy: HeaderValue,
    /// Entity tag: names this very content.
    tag: HeaderValue,
}

impl File {
    fn new(media_type: HeaderValue, encoding: Option<HeaderValue>, content: Bytes) -> Self {
        let mut tag = String::from("\"");
        for byte in Sha1::digest(&content) {
            write!(tag, "{byte:02x}").expect("a String takes all");
        }
        tag.push('"');
        let tag = tag.try_into().expect("hexadecimal digits may stand in a header");
        Self { media_type, encoding, content, policy: POLICY, tag }
    }

    fn route<S: Clone + Send + Sync + 'static>(self, router: Router<S>, path: &str) -> Router<S> {
        router.route(path, get(move |headers: HeaderMap| async move { self.answer(&headers) }))
    }

    fn answer(self, request: &HeaderMap) -> Response {
        let known = request.get(IF_NONE_MATCH).is_some_and(|tags| names_tag(tags, &self.tag));
        let mut response = if known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, self.media_type)], self.content).into_response()
        };
        let headers = response.headers_mut();
        headers.extend(HEADERS);
        headers.insert(CONTENT_SECURITY_POLICY, self.policy);
        headers.insert(ETAG, self.tag);
        if let (false, Some(encoding)) = (known, self.encoding) {
            headers.insert(CONTENT_ENCODING, encoding);
        }
        response
    }
}

/// Reports whether `If-None-Match` names the tag. A proxy that compresses may have made our tag a
/// weak one.
fn names_tag(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|known| known.strip_prefix("W/").unwrap_or(known)).any(|known| known == "*" || known == tag)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use tower_service::Service as _;

    use super::*;

    fn tabs() -> [Tab; 1] {
        [Tab { query: "{ a(b: \"<&>\") }".into(), token: "ZOWI".into() }]
    }

    async fn get(path: &str, known: Option<&HeaderValue>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        routes::<()>(&tabs(), None).call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    /// Returns the paths of the page and of all files of the bundle.
    fn paths() -> impl Iterator<Item = String> {
        let bundle = BUNDLE.iter().map(|(name, _)| format!("/page/{name}"));
        bundle.chain(["/".to_owned()])
    }

    #[tokio::test]
    async fn policy_forbids_other_servers_and_frames() {
        for path in paths() {
            let response = get(&path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let headers = response.headers();
            let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
            assert!(
                policy.contains("connect-src 'self';") && policy.contains("frame-ancestors 'none'"),
                "{policy}"
            );
            assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(headers[REFERRER_POLICY], "no-referrer");
            assert_ne!(headers[CONTENT_TYPE], "application/octet-stream", "{path}");
        }
    }

    #[tokio::test]
    async fn cached_file_is_not_sent_again() {
        for path in paths() {
            let tag = get(&path, None).await.headers()[ETAG].clone();
            let weak = HeaderValue::from_str(&format!("\"other\", W/{}", tag.to_str().unwrap())).unwrap();
            for known in [&tag, &weak] {
                let response = get(&path, Some(known)).await;
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{path}");
                assert_eq!(
                    (&response.headers()[ETAG], &response.headers()[CACHE_CONTROL]),
                    (&tag, &HEADERS[0].1)
                );
                assert!(!response.headers().contains_key(CONTENT_ENCODING));
            }
            assert_eq!(
                get(&path, Some(&HeaderValue::from_static("\"other\""))).await.status(),
                StatusCode::OK
            );
        }
    }

    #[tokio::test]
    async fn bundle_is_compressed_and_page_is_not() {
        for path in paths() {
            let encoding = get(&path, None).await.headers().get(CONTENT_ENCODING).cloned();
            assert_eq!(encoding.is_some_and(|encoding| encoding == "gzip"), path != "/", "{path}");
        }
        assert_eq!(get("/page/nothing.js", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn query_cannot_leave_its_attribute() {
        let attribute = attribute(&headers(&tabs()));
        assert!(!attribute.contains(['"', '<']), "{attribute}");
        assert!(attribute.contains("&lt;&amp;>") && attribute.contains("Bearer ZOWI"), "{attribute}");
    }
}
