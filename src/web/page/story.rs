//! [`Story`]: the page of a cluster. It shows on four pods which users receive an event, and why.
//!
//! Its pods run in one process, for a laptop. Two buttons of the page ask something of the process:
//! it restarts a pod, or starts pods that are deaf to one another. No other page may ask that.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{HOST, ORIGIN},
    },
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the process. A further one is refused with 429.
const MAX_WAITING: usize = 4;

/// Name and address of a pod.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the pod.
    pub name: String,
    /// Address for clients, on this machine.
    pub address: SocketAddr,
}

/// What the page asks of the process that runs the pods.
#[derive(Debug)]
pub enum Request {
    /// Drains the pod of this name and starts it again.
    Restart(String),
    /// Starts the deaf pods, and reports when they are ready, or why they are not.
    StartDeaf(oneshot::Sender<Result<(), String>>),
}

/// Pods and users that the page shows.
#[derive(Clone, Debug)]
pub struct Story {
    pods: Arc<[Place]>,
    deaf: Arc<[Place]>,
    domain: Value,
    requests: mpsc::Sender<Request>,
}

impl Story {
    /// Creates the story of these pods. `deaf` are the addresses for pods that share no topic.
    /// `domain` is what the page knows of the domain, as JSON. The process must obey the requests.
    #[must_use]
    pub fn new(pods: Vec<Place>, deaf: Vec<Place>, domain: Value) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        (Self { pods: pods.into(), deaf: deaf.into(), domain, requests }, receiver)
    }

    /// Returns the pods that share the topic.
    #[must_use]
    pub fn pods(&self) -> &[Place] {
        &self.pods
    }

    /// Returns the places of the pods that share no topic.
    #[must_use]
    pub fn deaf(&self) -> &[Place] {
        &self.deaf
    }

    /// Returns the origins of pages of the cluster: that of each pod, by address and by name.
    pub fn origins(&self) -> impl Iterator<Item = String> {
        self.pods.iter().flat_map(|Place { address, .. }| {
            [format!("http://{address}"), format!("http://localhost:{}", address.port())]
        })
    }

    /// Returns what the page reads.
    pub(super) fn to_json(&self) -> Value {
        let places = |places: &[Place]| -> Value {
            let place =
                |Place { name, address }: &Place| json!({ "name": name, "url": format!("http://{address}") });
            places.iter().map(place).collect()
        };
        json!({ "pods": places(&self.pods), "deaf": places(&self.deaf), "domain": self.domain })
    }

    /// Returns the content security policy of the page: that of GraphiQL without its concessions,
    /// but with connections to all pods of the cluster.
    pub(super) fn policy(&self) -> HeaderValue {
        let places = self.pods.iter().chain(self.deaf.iter());
        let pods: String =
            places.map(|Place { address, .. }| format!(" http://{address} ws://{address}")).collect();
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{pods}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        policy.try_into().expect("addresses may stand in a header")
    }

    /// Adds the routes of the page's buttons.
    pub(super) fn routes<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) -> Router<S> {
        let story = self.clone();
        let start_deaf = move |headers: HeaderMap| async move { story.start_deaf(&headers).await };
        let router = router.route("/cluster/deaf", post(start_deaf));
        self.pods.iter().fold(router, |router, Place { name, .. }| {
            let (story, path, name) = (self.clone(), format!("/cluster/restart/{name}"), name.clone());
            router.route(&path, post(move |headers: HeaderMap| async move { story.restart(&headers, name) }))
        })
    }

    fn restart(&self, headers: &HeaderMap, name: String) -> (StatusCode, String) {
        match self.ask(headers, Request::Restart(name)) {
            Ok(()) => (StatusCode::ACCEPTED, String::new()),
            Err(refusal) => refusal,
        }
    }

    async fn start_deaf(&self, headers: &HeaderMap) -> (StatusCode, String) {
        let (started, report) = oneshot::channel();
        if let Err(refusal) = self.ask(headers, Request::StartDeaf(started)) {
            return refusal;
        }
        match report.await {
            Ok(Ok(())) => (StatusCode::OK, String::new()),
            Ok(Err(why)) => (StatusCode::CONFLICT, why),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the cluster is stopping\n".to_owned()),
        }
    }

    /// Passes a request of the cluster's own page on to the process.
    fn ask(&self, headers: &HeaderMap, request: Request) -> Result<(), (StatusCode, String)> {
        if !self.is_own(headers) {
            let text = "only the page of this pod may ask that: open it by its address or by localhost\n";
            return Err((StatusCode::FORBIDDEN, text.to_owned()));
        }
        self.requests.try_send(request).map_err(|_| {
            (
                StatusCode::TOO_MANY_REQUESTS,
                "the cluster is busy with a request before; try again\n".to_owned(),
            )
        })
    }

    /// Reports whether the page of this pod sent the request. A browser adds `Origin` to each POST,
    /// and no page can change it. The origin must be one of the cluster's: a page whose own name
    /// resolves to this machine (DNS rebinding) has another one.
    fn is_own(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
        origin.strip_prefix("http://") == Some(host) && self.origins().any(|own| own == origin)
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        extract,
        http::{Method, header::CONTENT_SECURITY_POLICY},
    };
    use tower_service::Service as _;

    use super::*;
    use crate::web::page::{BUNDLE, routes};

    fn place(name: &str, port: u16) -> Place {
        Place { name: name.to_owned(), address: ([127, 0, 0, 1], port).into() }
    }

    fn story() -> (Story, mpsc::Receiver<Request>) {
        let pods = vec![place("pod-1", 3001), place("pod-2", 3002)];
        Story::new(pods, vec![place("deaf-1", 3003)], json!({ "users": ["</script><b>\"&"] }))
    }

    async fn call(story: &Story, method: Method, path: &str, from: Option<[&str; 2]>) -> StatusCode {
        let mut request = extract::Request::builder().method(method).uri(path);
        for (name, value) in from.iter().flat_map(|[origin, host]| [(ORIGIN, origin), (HOST, host)]) {
            request = request.header(name, *value);
        }
        let mut routes = story.routes::<()>(Router::new());
        routes.call(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn own_page_restarts_pod() {
        let (story, mut requests) = story();
        for from in [["http://127.0.0.1:3001", "127.0.0.1:3001"], ["http://localhost:3002", "localhost:3002"]]
        {
            let status = call(&story, Method::POST, "/cluster/restart/pod-2", Some(from)).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{from:?}");
            assert!(matches!(requests.recv().await, Some(Request::Restart(name)) if name == "pod-2"));
        }
    }

    #[tokio::test]
    async fn foreign_page_asks_nothing_of_process() {
        let (story, mut requests) = story();
        for from in [
            None,
            Some(["http://evil.example", "127.0.0.1:3001"]),
            Some(["http://rebound.example:3001", "rebound.example:3001"]),
            Some(["http://127.0.0.1:3002", "127.0.0.1:3001"]),
            Some(["http://localhost:8080", "localhost:8080"]),
            Some(["https://127.0.0.1:3001", "127.0.0.1:3001"]),
            Some(["null", "127.0.0.1:3001"]),
        ] {
            for path in ["/cluster/restart/pod-1", "/cluster/deaf"] {
                assert_eq!(call(&story, Method::POST, path, from).await, StatusCode::FORBIDDEN, "{from:?}");
            }
        }
        assert!(requests.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_post_asks_and_only_for_known_pods() {
        let (story, _requests) = story();
        let own = Some(["http://127.0.0.1:3001", "127.0.0.1:3001"]);
        let get = call(&story, Method::GET, "/cluster/restart/pod-1", own).await;
        let unknown = call(&story, Method::POST, "/cluster/restart/pod-9", own).await;
        assert_eq!((get, unknown), (StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND));
    }

    #[tokio::test]
    async fn waiting_requests_are_bounded() {
        let (story, _requests) = story();
        let own = Some(["http://127.0.0.1:3001", "127.0.0.1:3001"]);
        let mut statuses = Vec::new();
        for _ in 0..=MAX_WAITING {
            statuses.push(call(&story, Method::POST, "/cluster/restart/pod-1", own).await);
        }
        assert_eq!(statuses.pop(), Some(StatusCode::TOO_MANY_REQUESTS));
        assert!(statuses.iter().all(|status| *status == StatusCode::ACCEPTED), "{statuses:?}");
    }

    #[tokio::test]
    async fn policy_names_pods_of_cluster_only() {
        let (story, _requests) = story();
        let policy = story.policy();
        let policy = policy.to_str().unwrap();
        let connect = "connect-src 'self' http://127.0.0.1:3001 ws://127.0.0.1:3001 http://127.0.0.1:3002 \
                       ws://127.0.0.1:3002 http://127.0.0.1:3003 ws://127.0.0.1:3003;";
        assert!(policy.contains(connect) && policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        if BUNDLE.is_empty() {
            return;
        }
        for (path, is_story) in [("/", true), ("/graphiql", false)] {
            let request = extract::Request::get(path).body(Body::empty()).unwrap();
            let answer = routes::<()>(&[], Some(&story)).call(request).await.unwrap();
            assert_eq!(answer.headers()[CONTENT_SECURITY_POLICY] == policy, is_story, "{path}");
            let html = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            let html = String::from_utf8(html.to_vec()).unwrap();
            assert!(!html.contains("</script><b>") && html.contains("&lt;/script>&lt;b>"), "{html}");
        }
    }
}
