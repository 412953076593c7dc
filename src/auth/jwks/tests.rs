//! Tests of loading keys: when they are loaded, when they expire, and what is refused.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    task::Poll,
};

use axum::{Router, http::StatusCode, response::Redirect, routing::get};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time};

use super::{source::CONFIGURATION, *};
use crate::auth::{
    AuthError, Authenticator, Settings, jwt,
    tests::{Issuer, open},
};

/// Server of an issuer on a port of its own. It ends with the test.
struct Server {
    origin: String,
    shared: Arc<Mutex<Answers>>,
    _tasks: JoinSet<()>,
}

/// Responses of the server to requests for its key set: the set, or an error status.
struct Answers {
    set: Result<Value, StatusCode>,
    count: usize,
}

impl Server {
    async fn start(keys: &[&Issuer]) -> Self {
        let shared = Arc::new(Mutex::new(Answers { set: Ok(set(keys)), count: 0 }));
        let answers = Arc::clone(&shared);
        let answer = move || async move {
            let mut answers = answers.lock().unwrap();
            answers.count += 1;
            answers.set.clone().map(|set| set.to_string())
        };
        let large = set(keys).to_string() + &" ".repeat(MAX_BYTES);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let document = |issuer: &str, keys: &str| {
            let (issuer, keys) = (format!("{origin}{issuer}"), keys.to_owned());
            get(move || async move { json!({ "issuer": issuer, "jwks_uri": keys }).to_string() })
        };
        let own = format!("{origin}/jwks");
        let big = get(|| async { " ".repeat(MAX_BYTES + 1) });
        let routes = Router::new()
            .route("/jwks", get(answer))
            .route("/moved", get(|| async { Redirect::temporary("/jwks") }))
            .route("/away", get(|| async { Redirect::temporary("https://127.0.0.1:9/jwks") }))
            .route("/round", get(|| async { Redirect::temporary("/round") }))
            .route("/silent", get(pending::<()>))
            .route("/large", get(|| async { large }))
            .route(CONFIGURATION, document("", &own))
            .route("/slash/.well-known/openid-configuration", document("/slash/", &own))
            .route("/other/.well-known/openid-configuration", document("", &own))
            .route(
                "/plain/.well-known/openid-configuration",
                document("/plain", "http://issuer.example/jwks"),
            )
            .route("/file/.well-known/openid-configuration", document("/file", "file:///etc/passwd"))
            .route("/empty/.well-known/openid-configuration", get(|| async { "{}" }))
            .route("/big/.well-known/openid-configuration", big)
            .route("/mute/.well-known/openid-configuration", get(pending::<()>));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { origin, shared, _tasks: tasks }
    }

    fn publish(&self, keys: &[&Issuer]) {
        self.shared.lock().unwrap().set = Ok(set(keys));
    }

    fn fail(&self) {
        self.shared.lock().unwrap().set = Err(StatusCode::SERVICE_UNAVAILABLE);
    }

    fn count(&self) -> usize {
        self.shared.lock().unwrap().count
    }

    async fn authenticator(&self, path: &str) -> Authenticator {
        let source = JwksSource::Url(format!("{}{path}", self.origin));
        authenticator(source).await.expect("an address is never fatal")
    }
}

/// Discovers the keys of the issuer at this path.
async fn discovered(server: &Server, path: &str) -> Authenticator {
    let source = JwksSource::Discovery(format!("{}{path}", server.origin));
    authenticator(source).await.expect("an issuer that does not answer is never fatal")
}

#[tokio::test]
async fn issuer_names_address_of_its_keys() {
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let server = Server::start(&[&old]).await;
    for path in ["", "/slash/"] {
        let authenticator = discovered(&server, path).await;
        assert_eq!((authenticate(&authenticator, &old).await, authenticator.lack()), (Ok(()), None));
    }
    let authenticator = discovered(&server, "").await;
    server.publish(&[&new]);
    advance(Duration::from_secs(601)).await;
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()), "loaded again like a JWKS");
}

#[tokio::test]
async fn unfit_configuration_gives_no_keys() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    for (path, cause) in [
        ("/other", "another issuer"),
        ("/slash", "another issuer"),
        ("/plain", "https://"),
        ("/file", "https://"),
        ("/empty", "issuer and jwks_uri"),
        ("/big", "larger than 1 MiB"),
        ("/absent", "404"),
    ] {
        let authenticator = discovered(&server, path).await;
        assert_eq!(authenticate(&authenticator, &issuer).await, UNAVAILABLE, "{path}");
        let lack = authenticator.lack().unwrap();
        let name = format!("{}{path} cannot be loaded", server.origin);
        for part in [cause, &name, "cure: "] {
            assert!(lack.contains(part), "{path}: {lack}");
        }
    }
}

#[tokio::test]
async fn silent_issuer_costs_five_seconds_at_most() {
    let server = Server::start(&[]).await;
    time::pause();
    let begin = Instant::now();
    let authenticator = discovered(&server, "/mute").await;
    assert!(begin.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
    assert!(authenticator.lack().is_some());
}

#[tokio::test]
async fn unsafe_issuer_does_not_open() {
    for url in [
        "http://issuer.example",
        "https://issuer.example?a=b",
        "issuer.example",
        "https://user:password@issuer.example",
        "ftp://127.0.0.1",
    ] {
        let error = authenticator(JwksSource::Discovery(url.into())).await.err();
        assert!(matches!(error, Some(SetupError::Discovery)), "{url}");
    }
}

#[tokio::test]
async fn missing_keys_are_loaded_without_token() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    server.fail();
    let authenticator = discovered(&server, "").await;
    assert!(authenticator.lack().unwrap().contains("status 503"), "{:?}", authenticator.lack());
    server.publish(&[&issuer]);
    let loaded = async {
        while authenticator.lack().is_some() {
            advance(Duration::from_secs(1)).await;
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(60), loaded).await.expect("no token is needed");
    assert_eq!(authenticate(&authenticator, &issuer).await, Ok(()));
}

fn set(issuers: &[&Issuer]) -> Value {
    json!({ "keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>() })
}

async fn authenticator(source: JwksSource) -> Result<Authenticator, SetupError> {
    let keys = jwt::Keys::Jwks(source);
    open(Settings::Jwt(jwt::Settings::of(keys))).await
}

async fn authenticate(authenticator: &Authenticator, issuer: &Issuer) -> Result<(), AuthError> {
    authenticator.authenticate(Some(&issuer.token())).await.map(drop)
}

/// Advances tokio's clock only, so that sockets keep theirs.
async fn advance(duration: Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}

const UNKNOWN: Result<(), AuthError> = Err(AuthError::UnknownKey);
const UNAVAILABLE: Result<(), AuthError> = Err(AuthError::KeysUnavailable);

#[tokio::test]
async fn first_token_of_new_key_causes_fetch() {
    let (old, new) = (Issuer::ec("old"), Issuer::rsa("new"));
    let server = Server::start(&[&old]).await;
    let authenticator = server.authenticator("/jwks").await;
    assert_eq!(authenticate(&authenticator, &old).await, Ok(()));

    server.publish(&[&new]);
    assert_eq!(authenticate(&authenticator, &new).await, UNAVAILABLE, "the address may have it");
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()));
    assert_eq!(server.count(), 2);
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &old).await, UNKNOWN, "the address does not have it");
}

#[tokio::test]
async fn unknown_keys_cause_one_fetch_per_pause() {
    let server = Server::start(&[&Issuer::ec("known")]).await;
    let authenticator = server.authenticator("/jwks").await;
    let foreign = Issuer::ec("foreign");
    for fetches in 2..4 {
        advance(Duration::from_secs(31)).await;
        let crowd = (0..50).map(|_| authenticate(&authenticator, &foreign));
        let answers = futures_util::future::join_all(crowd).await;
        assert!(answers.iter().all(|answer| [UNKNOWN, UNAVAILABLE].contains(answer)));
        assert!(answers.contains(&UNKNOWN), "the load began after this token came");
        assert_eq!(server.count(), fetches);
    }
}

#[tokio::test]
async fn unsupported_algorithm_causes_no_fetch() {
    let server = Server::start(&[&Issuer::ec("known")]).await;
    let authenticator = server.authenticator("/jwks").await;
    advance(Duration::from_secs(31)).await;
    let symmetric = Issuer::secret("a secret of more than 32 bytes...");
    assert_eq!(authenticate(&authenticator, &symmetric).await, Err(AuthError::WrongAlgorithm));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn withdrawn_keys_are_refused_after_reload() {
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let server = Server::start(&[&old]).await;
    let authenticator = server.authenticator("/jwks").await;
    server.publish(&[&new]);
    advance(Duration::from_secs(599)).await;
    assert_eq!(authenticate(&authenticator, &old).await, Ok(()));
    advance(Duration::from_secs(2)).await;
    assert_eq!(authenticate(&authenticator, &old).await, UNKNOWN);
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()));
    server.publish(&[]);
    advance(Duration::from_secs(601)).await;
    assert_eq!(authenticate(&authenticator, &new).await, UNKNOWN);
}

#[tokio::test]
async fn keys_of_failing_address_expire_after_day() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    let authenticator = server.authenticator("/jwks").await;
    server.fail();
    advance(Duration::from_secs(24 * 3600 - 60)).await;
    assert_eq!(authenticate(&authenticator, &issuer).await, Ok(()));
    advance(Duration::from_secs(61)).await;
    for _ in 0..2 {
        assert_eq!(authenticate(&authenticator, &issuer).await, UNAVAILABLE);
    }
    server.publish(&[&issuer]);
    advance(PAUSE_WITHOUT_KEYS).await;
    assert_eq!(authenticate(&authenticator, &issuer).await, Ok(()));
}

#[tokio::test]
async fn known_keys_survive_failing_address() {
    let (known, new) = (Issuer::ec("known"), Issuer::ec("new"));
    let server = Server::start(&[&known]).await;
    let authenticator = server.authenticator("/jwks").await;
    server.fail();
    advance(Duration::from_secs(3600)).await;
    for _ in 0..3 {
        assert_eq!(authenticate(&authenticator, &known).await, Ok(()));
    }
    assert_eq!(server.count(), 2, "a failure is not tried again at once");
    assert_eq!(authenticate(&authenticator, &new).await, UNAVAILABLE, "it may be a new key");

    server.publish(&[&new]);
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()));
}

#[tokio::test]
async fn address_failing_at_start_is_asked_again() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    server.fail();
    let authenticator = server.authenticator("/jwks").await;
    assert_eq!(authenticate(&authenticator, &issuer).await, UNAVAILABLE);
    server.publish(&[&issuer]);
    assert_eq!(authenticate(&authenticator, &issuer).await, UNAVAILABLE, "asked a moment ago");
    advance(Duration::from_secs(6)).await;
    assert_eq!(authenticate(&authenticator, &issuer).await, Ok(()));
}

#[tokio::test]
async fn client_hanging_up_does_not_stop_fetch() {
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let server = Server::start(&[&old]).await;
    let authenticator = server.authenticator("/jwks").await;
    server.publish(&[&new]);
    advance(Duration::from_secs(31)).await;
    {
        let mut hasty = pin!(authenticate(&authenticator, &new));
        poll_fn(|context| {
            assert!(hasty.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    let fetched = async {
        while server.count() < 2 {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(FETCH_TIMEOUT, fetched).await.expect("the fetch continues");
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn redirects_are_limited_to_scheme_and_number() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    assert_eq!(authenticate(&server.authenticator("/moved").await, &issuer).await, Ok(()));
    for path in ["/away", "/round"] {
        let source = Source::open(&JwksSource::Url(format!("{}{path}", server.origin))).unwrap();
        let error = source.load().await.err();
        assert!(matches!(&error, Some(LoadError::Fetch(error)) if error.is_redirect()), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn failed_or_oversized_response_is_refused() {
    let issuer = Issuer::ec("1");
    let server = Server::start(&[&issuer]).await;
    for path in ["/large", "/absent"] {
        assert_eq!(authenticate(&server.authenticator(path).await, &issuer).await, UNAVAILABLE, "{path}");
    }
}

#[tokio::test]
async fn silent_address_costs_five_seconds_at_most() {
    let server = Server::start(&[]).await;
    time::pause();
    let begin = Instant::now();
    let authenticator = server.authenticator("/silent").await;
    assert!(begin.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
    assert_eq!(authenticate(&authenticator, &Issuer::ec("1")).await, UNAVAILABLE);
}

#[tokio::test]
async fn tokens_that_wait_for_load_are_bounded() {
    let server = Server::start(&[]).await;
    time::pause();
    let authenticator = server.authenticator("/silent").await;
    time::advance(PAUSE_WITHOUT_KEYS).await;
    let (foreign, more) = (Issuer::ec("foreign"), 10);
    let crowd = (0..MAX_WAITING + more).map(async |_| {
        let began = Instant::now();
        assert_eq!(authenticate(&authenticator, &foreign).await, UNAVAILABLE);
        began.elapsed()
    });
    let times = futures_util::future::join_all(crowd).await;
    let at_once = times.iter().filter(|time| **time < Duration::from_secs(1)).count();
    assert_eq!(at_once, more, "{times:?}");
}

#[tokio::test]
async fn illegal_address_does_not_open() {
    for url in ["ftp://issuer.example/jwks", "issuer.example", "", "file:///etc/jwks"] {
        let error = authenticator(JwksSource::Url(url.into())).await.err();
        assert!(matches!(error, Some(SetupError::JwksUrl)), "{url:?}");
    }
}

#[tokio::test]
async fn file_is_reread_and_broken_one_ignored() {
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
    std::fs::write(&path, set(&[&old]).to_string()).unwrap();
    let authenticator = authenticator(JwksSource::File(path.clone())).await.unwrap();
    assert_eq!(authenticate(&authenticator, &old).await, Ok(()));

    std::fs::write(&path, "{").unwrap();
    advance(Duration::from_secs(11)).await;
    assert_eq!(authenticate(&authenticator, &old).await, Ok(()));

    std::fs::write(&path, set(&[&new]).to_string()).unwrap();
    advance(Duration::from_secs(2)).await;
    assert_eq!(authenticate(&authenticator, &new).await, Ok(()));
    advance(Duration::from_secs(2)).await;
    assert_eq!(authenticate(&authenticator, &old).await, UNKNOWN);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn file_without_usable_key_does_not_open() {
    let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
    for content in [None, Some(""), Some("[]"), Some(r#"{"keys": []}"#), Some(r#"{"keys": [1, {}]}"#)] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = authenticator(JwksSource::File(path.clone())).await.err();
        assert!(matches!(error, Some(SetupError::JwksFile { .. })), "{content:?}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn token_without_key_id_needs_single_match() {
    let (one, two, rsa) = (Issuer::ec("one"), Issuer::ec("two"), Issuer::rsa("rsa"));
    let server = Server::start(&[&one, &rsa]).await;
    assert_eq!(authenticate(&server.authenticator("/jwks").await, &one.without_key_id()).await, Ok(()));
    server.publish(&[&one, &two, &rsa]);
    let authenticator = server.authenticator("/jwks").await;
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &one.without_key_id()).await, UNKNOWN);
    assert_eq!(authenticate(&authenticator, &rsa.without_key_id()).await, Ok(()));
}

#[tokio::test]
async fn replaced_key_without_id_is_not_refused() {
    let (old, new) = (Issuer::ec("1"), Issuer::ec("2"));
    let server = Server::start(&[&old]).await;
    let authenticator = server.authenticator("/jwks").await;
    server.publish(&[&new]);
    assert_eq!(authenticate(&authenticator, &new.without_key_id()).await, UNAVAILABLE);
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &new.without_key_id()).await, Ok(()));
    advance(Duration::from_secs(31)).await;
    assert_eq!(authenticate(&authenticator, &old.without_key_id()).await, Err(AuthError::BadSignature));
}
