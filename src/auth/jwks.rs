//! The issuer's public keys: loaded from a file or an address, kept, and loaded again in good time.
//!
//! | | looked at again | for an unknown key | never loaded yet |
//! |---|---|---|---|
//! | file | every 10 s | at most every second | (does not open) |
//! | address | every 10 min, whatever its `Cache-Control` says | at most every 30 s | at most every 5 s |
//!
//! Issuers change their keys while pods run, and may be away when a pod starts. Nothing runs unless a token comes; one load
//! runs at a time, and while the source is away the last keys stay in use. It must never let what clients send cause more
//! loads than the table allows.

mod key;

use std::{
    error::Error,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use reqwest::{Client, Url, redirect};
use tokio::{sync::OwnedMutexGuard, task::spawn_blocking, time::Instant};
use tokio_util::task::TaskTracker;

use self::key::Key;
use super::error::{AuthError, LoadError, SetupError};

/// Where a JWKS is.
#[derive(Clone, Debug)]
pub enum JwksSource {
    /// A file, which may be replaced while the pod runs.
    File(PathBuf),
    /// An `http://` or `https://` address.
    Url(String),
}

/// How long an address may take to answer, from connecting to the last byte.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest key set, in bytes: far more than any issuer publishes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Between tries while there is no key at all: nobody can be let in, so sooner than [`Pace::pause`].
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);

const MAX_REDIRECTS: usize = 3;

/// A key set that keeps itself fresh.
pub(super) struct Jwks {
    source: Source,
    pace: Pace,
    state: Mutex<State>,
    /// Whose turn it is to load; held by the load itself.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Loads are tasks, so that a client that hangs up cannot stop one; the timeout ends them.
    loads: TaskTracker,
}

/// Loads a key set once, for one who only asks whether it can be used: how many keys there are.
///
/// # Errors
/// Why nobody could be let in.
pub async fn probe(source: JwksSource) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let source = match source {
        JwksSource::File(path) => Source::File(path),
        JwksSource::Url(url) => Source::open_url(&url)?,
    };
    match source.load().await?.len() {
        0 => Err(LoadError::NoKeys.into()),
        keys => Ok(keys),
    }
}

/// What is wrong with a source before anybody asks it: a file must hold keys, an address be one. Blocks.
///
/// # Errors
/// [`SetupError`], as [`Authenticator::open`](super::Authenticator::open) would.
pub fn check(source: &JwksSource) -> Result<(), SetupError> {
    let path = match source {
        JwksSource::Url(url) => return parse_url(url).map(drop),
        JwksSource::File(path) => path,
    };
    let problem = match read(path).and_then(|bytes| Ok(key::parse(&bytes)?)) {
        Ok(keys) if keys.is_empty() => LoadError::NoKeys,
        Ok(_) => return Ok(()),
        Err(problem) => problem,
    };
    Err(SetupError::JwksFile { path: path.clone(), source: problem })
}

enum Source {
    File(PathBuf),
    Url(Client, Url),
}

struct Pace {
    /// The age at which keys are loaded again.
    refresh: Duration,
    /// The least time between two tries.
    pause: Duration,
}

struct State {
    /// `None` until the first success.
    keys: Option<Vec<Arc<Key>>>,
    tried: Instant,
    loaded: Instant,
    /// Whether the last try failed.
    is_failing: bool,
}

impl Jwks {
    pub(super) async fn open(source: JwksSource) -> Result<Self, SetupError> {
        let (source, pace) = match source {
            JwksSource::File(path) => {
                (Source::File(path), Pace { refresh: Duration::from_secs(10), pause: Duration::from_secs(1) })
            }
            JwksSource::Url(url) => (
                Source::open_url(&url)?,
                Pace { refresh: Duration::from_secs(10 * 60), pause: Duration::from_secs(30) },
            ),
        };
        let now = Instant::now();
        let state = State { keys: None, tried: now, loaded: now, is_failing: true };
        let jwks =
            Self { source, pace, state: Mutex::new(state), turn: Arc::default(), loads: TaskTracker::new() };
        match (&jwks.source, jwks.source.load().await) {
            (Source::File(path), Err(source)) => Err(SetupError::JwksFile { path: path.clone(), source }),
            (Source::File(path), Ok(keys)) if keys.is_empty() => {
                Err(SetupError::JwksFile { path: path.clone(), source: LoadError::NoKeys })
            }
            (_, loaded) => {
                jwks.keep(loaded);
                Ok(jwks)
            }
        }
    }

    /// The one key that can have signed a token with this header.
    ///
    /// Loads the keys first if they are old and nobody else is at it, or if none fits and the pace allows it: then it
    /// waits for the load, as long as [`FETCH_TIMEOUT`] at most.
    pub(super) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, AuthError> {
        if self.is_old()
            && let Ok(turn) = Arc::clone(&self.turn).try_lock_owned()
        {
            self.load(turn).await;
        }
        if let Some(key) = self.find(id, algorithm)? {
            return Ok(key);
        }
        self.load(Arc::clone(&self.turn).lock_owned().await).await;
        self.find(id, algorithm)?.ok_or_else(|| match self.state().is_failing {
            // It may be a new key that we cannot see.
            true => AuthError::KeysUnavailable,
            false => AuthError::UnknownKey,
        })
    }

    /// With an id, the key of that id; without, the only key for the algorithm. Two that fit are none.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Option<Arc<Key>>, AuthError> {
        let state = self.state();
        let named = || {
            let keys = state.keys.iter().flatten();
            keys.filter(|key| id.is_none_or(|id| key.id.as_deref() == Some(id)))
        };
        let mut fitting = named().filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(Some(Arc::clone(key))),
            (None, _) if id.is_some() && named().next().is_some() => Err(AuthError::WrongAlgorithm),
            _ => Ok(None),
        }
    }

    fn is_old(&self) -> bool {
        let state = self.state();
        state.keys.is_some() && state.loaded.elapsed() >= self.pace.refresh
    }

    /// Loads the keys, unless that was tried a moment ago (perhaps by whoever had the turn before).
    async fn load(self: &Arc<Self>, turn: OwnedMutexGuard<()>) {
        {
            let state = self.state();
            let pause = if state.keys.is_some() { self.pace.pause } else { PAUSE_WITHOUT_KEYS };
            if state.tried.elapsed() < pause {
                return;
            }
        }
        let jwks = Arc::clone(self);
        let load = self.loads.spawn(async move {
            let loaded = jwks.source.load().await;
            jwks.keep(loaded);
            drop(turn);
        });
        // Whether it went well stands in the state.
        load.await.ok();
    }

    fn keep(&self, loaded: Result<Vec<Arc<Key>>, LoadError>) {
        let mut state = self.state();
        state.tried = Instant::now();
        state.is_failing = loaded.is_err();
        match loaded {
            Ok(keys) => {
                // An issuer that withdraws its last key means it.
                if keys.is_empty() {
                    tracing::warn!("the jwks holds no usable key");
                }
                tracing::debug!(keys = keys.len(), "jwks loaded");
                state.loaded = Instant::now();
                state.keys = Some(keys);
            }
            Err(error) => tracing::warn!(
                error = &error as &(dyn Error + 'static),
                has_keys = state.keys.is_some(),
                "cannot load the jwks"
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Source {
    fn open_url(url: &str) -> Result<Self, SetupError> {
        let url = parse_url(url)?;
        // To follow https to http would be to take keys from anybody on the way.
        let scheme = url.scheme().to_owned();
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.url().scheme() != scheme || attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("redirected too often, or to another scheme");
            }
            attempt.follow()
        });
        let mut client = Client::builder().timeout(FETCH_TIMEOUT).redirect(redirects);
        // The client honours `HTTPS_PROXY` and its like, but no proxy reaches what runs beside us.
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            client = client.no_proxy();
        }
        Ok(Self::Url(client.build().map_err(SetupError::HttpClient)?, url))
    }

    async fn load(&self) -> Result<Vec<Arc<Key>>, LoadError> {
        let bytes = match self {
            Self::File(path) => {
                let path = path.clone();
                spawn_blocking(move || read(&path)).await.map_err(io::Error::other)??
            }
            Self::Url(client, url) => fetch(client, url.clone()).await?,
        };
        Ok(key::parse(&bytes)?)
    }
}

fn parse_url(url: &str) -> Result<Url, SetupError> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or(SetupError::JwksUrl)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(LoadError::TooLarge);
    }
    Ok(bytes)
}

async fn fetch(client: &Client, url: Url) -> Result<Vec<u8>, LoadError> {
    // The address may hold a password: no error may repeat it.
    let failed = |error: reqwest::Error| LoadError::Fetch(error.without_url());
    let mut response = client.get(url).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(LoadError::Status(response.status().as_u16()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(LoadError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        pin::pin,
        task::Poll,
    };

    use axum::{Router, http::StatusCode, response::Redirect, routing::get};
    use serde_json::{Value, json};
    use tokio::{net::TcpListener, task::JoinSet, time};

    use super::*;
    use crate::auth::{
        AuthError, Authenticator, Settings, jwt,
        tests::{Issuer, open},
    };

    /// An issuer's server on a port of its own. It ends with the test.
    struct Server {
        origin: String,
        shared: Arc<Mutex<Answers>>,
        _tasks: JoinSet<()>,
    }

    /// `Err`: that status instead.
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
            let routes = Router::new()
                .route("/jwks", get(answer))
                .route("/moved", get(|| async { Redirect::temporary("/jwks") }))
                .route("/away", get(|| async { Redirect::temporary("https://127.0.0.1:9/jwks") }))
                .route("/round", get(|| async { Redirect::temporary("/round") }))
                .route("/silent", get(pending::<()>))
                .route("/large", get(|| async { large }));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let origin = format!("http://{}", listener.local_addr().unwrap());
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

        async fn gate(&self, path: &str) -> Authenticator {
            gate(JwksSource::Url(format!("{}{path}", self.origin))).await.expect("an address is never fatal")
        }
    }

    fn set(issuers: &[&Issuer]) -> Value {
        json!({ "keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>() })
    }

    async fn gate(source: JwksSource) -> Result<Authenticator, SetupError> {
        let keys = jwt::Keys::Jwks(source);
        open(Settings::Jwt(jwt::Settings { keys, issuer: None, audience: None })).await
    }

    async fn authenticate(gate: &Authenticator, issuer: &Issuer) -> Result<(), AuthError> {
        gate.authenticate(Some(&issuer.token())).await.map(drop)
    }

    /// Lets time pass on tokio's clock only, so that sockets keep theirs.
    async fn session(duration: Duration) {
        time::pause();
        time::advance(duration).await;
        time::resume();
    }

    const UNKNOWN: Result<(), AuthError> = Err(AuthError::UnknownKey);
    const UNAVAILABLE: Result<(), AuthError> = Err(AuthError::KeysUnavailable);

    #[tokio::test]
    async fn a_new_key_is_fetched_when_its_first_token_comes() {
        let (old, new) = (Issuer::ec("old"), Issuer::rsa("new"));
        let server = Server::start(&[&old]).await;
        let gate = server.gate("/jwks").await;
        assert_eq!(authenticate(&gate, &old).await, Ok(()));

        server.publish(&[&new]);
        assert_eq!(authenticate(&gate, &new).await, UNKNOWN, "asked a moment ago");
        session(Duration::from_secs(31)).await;
        assert_eq!(authenticate(&gate, &new).await, Ok(()));
        assert_eq!(authenticate(&gate, &old).await, UNKNOWN);
        assert_eq!(server.count(), 2);
    }

    #[tokio::test]
    async fn a_crowd_of_unknown_keys_causes_one_fetch_in_thirty_seconds() {
        let server = Server::start(&[&Issuer::ec("known")]).await;
        let gate = server.gate("/jwks").await;
        let stranger = Issuer::ec("stranger");
        for fetches in 2..4 {
            session(Duration::from_secs(31)).await;
            let crowd = (0..50).map(|_| authenticate(&gate, &stranger));
            let answers = futures_util::future::join_all(crowd).await;
            assert!(answers.iter().all(|answer| *answer == UNKNOWN));
            assert_eq!(server.count(), fetches);
        }
    }

    #[tokio::test]
    async fn an_algorithm_that_no_key_can_have_causes_no_fetch() {
        let server = Server::start(&[&Issuer::ec("known")]).await;
        let gate = server.gate("/jwks").await;
        session(Duration::from_secs(31)).await;
        let symmetric = Issuer::secret("a secret of more than 32 bytes...");
        assert_eq!(authenticate(&gate, &symmetric).await, Err(AuthError::WrongAlgorithm));
        assert_eq!(server.count(), 1);
    }

    #[tokio::test]
    async fn old_keys_are_replaced_and_withdrawn_ones_refused() {
        let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
        let server = Server::start(&[&old]).await;
        let gate = server.gate("/jwks").await;
        server.publish(&[&new]);
        session(Duration::from_secs(599)).await;
        assert_eq!(authenticate(&gate, &old).await, Ok(()));
        session(Duration::from_secs(2)).await;
        assert_eq!(authenticate(&gate, &old).await, UNKNOWN);
        assert_eq!(authenticate(&gate, &new).await, Ok(()));
        server.publish(&[]);
        session(Duration::from_secs(601)).await;
        assert_eq!(authenticate(&gate, &new).await, UNKNOWN);
    }

    #[tokio::test]
    async fn known_keys_stay_in_use_while_the_address_is_away() {
        let (known, new) = (Issuer::ec("known"), Issuer::ec("new"));
        let server = Server::start(&[&known]).await;
        let gate = server.gate("/jwks").await;
        server.fail();
        session(Duration::from_secs(3600)).await;
        for _ in 0..3 {
            assert_eq!(authenticate(&gate, &known).await, Ok(()));
        }
        assert_eq!(server.count(), 2, "a failure is not tried again at once");
        assert_eq!(authenticate(&gate, &new).await, UNAVAILABLE, "it may be a key that we cannot see");

        server.publish(&[&new]);
        session(Duration::from_secs(31)).await;
        assert_eq!(authenticate(&gate, &new).await, Ok(()));
    }

    #[tokio::test]
    async fn an_address_that_is_away_at_the_start_is_asked_again() {
        let issuer = Issuer::ec("1");
        let server = Server::start(&[&issuer]).await;
        server.fail();
        let gate = server.gate("/jwks").await;
        assert_eq!(authenticate(&gate, &issuer).await, UNAVAILABLE);
        server.publish(&[&issuer]);
        assert_eq!(authenticate(&gate, &issuer).await, UNAVAILABLE, "asked a moment ago");
        session(Duration::from_secs(6)).await;
        assert_eq!(authenticate(&gate, &issuer).await, Ok(()));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_does_not_stop_the_fetch() {
        let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
        let server = Server::start(&[&old]).await;
        let gate = server.gate("/jwks").await;
        server.publish(&[&new]);
        session(Duration::from_secs(31)).await;
        {
            let mut hasty = pin!(authenticate(&gate, &new));
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
        time::timeout(FETCH_TIMEOUT, fetched).await.expect("the fetch goes on");
        assert_eq!(authenticate(&gate, &new).await, Ok(()));
        assert_eq!(server.count(), 2);
    }

    #[tokio::test]
    async fn redirects_are_followed_within_the_scheme_and_a_few_times() {
        let issuer = Issuer::ec("1");
        let server = Server::start(&[&issuer]).await;
        assert_eq!(authenticate(&server.gate("/moved").await, &issuer).await, Ok(()));
        for path in ["/away", "/round"] {
            let source = Source::open_url(&format!("{}{path}", server.origin)).unwrap();
            let error = source.load().await.err();
            assert!(
                matches!(&error, Some(LoadError::Fetch(error)) if error.is_redirect()),
                "{path}: {error:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_success_or_too_large_is_no_key_set() {
        let issuer = Issuer::ec("1");
        let server = Server::start(&[&issuer]).await;
        for path in ["/large", "/absent"] {
            assert_eq!(authenticate(&server.gate(path).await, &issuer).await, UNAVAILABLE, "{path}");
        }
    }

    #[tokio::test]
    async fn an_address_that_never_answers_costs_five_seconds_at_most() {
        let server = Server::start(&[]).await;
        time::pause();
        let begin = Instant::now();
        let gate = server.gate("/silent").await;
        assert!(begin.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
        assert_eq!(authenticate(&gate, &Issuer::ec("1")).await, UNAVAILABLE);
    }

    #[tokio::test]
    async fn an_address_that_nobody_can_ask_does_not_open() {
        for url in ["ftp://issuer.example/jwks", "issuer.example", "", "file:///etc/jwks"] {
            let error = gate(JwksSource::Url(url.into())).await.err();
            assert!(matches!(error, Some(SetupError::JwksUrl)), "{url:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
        let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
        std::fs::write(&path, set(&[&old]).to_string()).unwrap();
        let gate = gate(JwksSource::File(path.clone())).await.unwrap();
        assert_eq!(authenticate(&gate, &old).await, Ok(()));

        std::fs::write(&path, "{").unwrap();
        session(Duration::from_secs(11)).await;
        assert_eq!(authenticate(&gate, &old).await, Ok(()));

        std::fs::write(&path, set(&[&new]).to_string()).unwrap();
        session(Duration::from_secs(2)).await;
        assert_eq!(authenticate(&gate, &new).await, Ok(()));
        assert_eq!(authenticate(&gate, &old).await, UNKNOWN);
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_without_a_usable_key_does_not_open() {
        let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
        for content in [None, Some(""), Some("[]"), Some(r#"{"keys": []}"#), Some(r#"{"keys": [1, {}]}"#)] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = gate(JwksSource::File(path.clone())).await.err();
            assert!(matches!(error, Some(SetupError::JwksFile { .. })), "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn without_a_key_id_exactly_one_key_must_fit() {
        let (one, two, rsa) = (Issuer::ec("one"), Issuer::ec("two"), Issuer::rsa("rsa"));
        let server = Server::start(&[&one, &rsa]).await;
        assert_eq!(authenticate(&server.gate("/jwks").await, &one.nameless()).await, Ok(()));
        server.publish(&[&one, &two, &rsa]);
        let gate = server.gate("/jwks").await;
        assert_eq!(authenticate(&gate, &one.nameless()).await, UNKNOWN);
        assert_eq!(authenticate(&gate, &rsa.nameless()).await, Ok(()));
    }
}
