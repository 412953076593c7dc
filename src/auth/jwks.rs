//! Loads the issuer's public keys from a file or an address, keeps them, and loads them again.
//!
//! | | keys are old after | for an unknown key | before the first success |
//! |---|---|---|---|
//! | file | 10 s | at most every second | (does not open) |
//! | address | 10 min, whatever its `Cache-Control` | at most every 30 s | every 5 s |
//!
//! An issuer that is discovered names the address in its `/.well-known/openid-configuration`, which
//! is loaded each time as well.
//!
//! Issuers change their keys while pods run, and may be unreachable when a pod starts. Keys are
//! loaded when a token arrives, by one load at a time. Without any key they are loaded without a
//! token, because the pod is not ready. While the source fails, the last keys
//! stay in use up to their greatest age. A token with an unknown key is refused for good only by a
//! load that began after the token came. Tokens of clients must never cause more loads than the
//! table allows.

mod key;

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read as _},
    iter::successors,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use self::key::Key;
use super::error::{AuthError, LoadError, SetupError};

/// Source of a JWKS.
#[derive(Clone, Debug)]
pub enum JwksSource {
    /// A file, which may be replaced while the pod runs.
    File(PathBuf),
    /// An `http://` or `https://` address.
    Url(String),
    /// The `https://` URL of an issuer of OpenID Connect, whose configuration names the address;
    /// `http://` on this machine only.
    Discovery(String),
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) | Self::Discovery(url) => f.write_str(url),
        }
    }
}

/// Path of an issuer's configuration (OpenID Connect Discovery 1.0, section 4).
const CONFIGURATION: &str = "/.well-known/openid-configuration";

/// Why a source gives no keys, and what cures it.
#[derive(Clone, Debug)]
pub struct NoKeys {
    /// What happened, with the name of the source.
    pub what: String,
    /// What the operator can do about it.
    pub cure: String,
}

impl NoKeys {
    fn of(source: &JwksSource, error: &LoadError) -> Self {
        let why = match successors(error.source(), |&cause| cause.source()).last() {
            Some(root) => format!("{error}: {root}"),
            None => error.to_string(),
        };
        let cure = match source {
            _ if matches!(error, LoadError::OtherIssuer(_)) => {
                "correct the issuer's URL, to the letter".to_owned()
            }
            JwksSource::File(_) => "a readable JSON file {\"keys\": [...]}".to_owned(),
            JwksSource::Url(url) => {
                format!("correct the URL, or let traffic reach it; it must work: curl --fail {url}")
            }
            JwksSource::Discovery(issuer) => {
                let issuer = issuer.trim_end_matches('/');
                format!(
                    "correct the issuer, or let traffic reach it and its jwks_uri; it must work: curl --fail \
                     {issuer}{CONFIGURATION}"
                )
            }
        };
        Self { what: format!("the keys of {source} cannot be loaded: {why}"), cure }
    }
}

impl fmt::Display for NoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; cure: {}", self.what, self.cure)
    }
}

/// Longest time of a fetch, from connecting to the last byte. At the limit the load fails.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest key set, in bytes: far more than any issuer publishes. A larger one is refused.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Shortest time between two loads while there is no key at all. Every token is refused until then,
/// so it is shorter than [`Schedule::pause`].
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);

const MAX_REDIRECTS: usize = 3;

/// Most tokens that wait for a load. A further one is refused with 503 at once: each takes the
/// place of a request while it waits, and any peer can invent a key.
const MAX_WAITING: usize = 128;

/// A key set that is loaded again when a token needs it.
pub(super) struct Jwks {
    name: JwksSource,
    source: Source,
    schedule: Schedule,
    state: Mutex<State>,
    /// Held by the load that runs, so that there is one at a time.
    load_lock: Arc<tokio::sync::Mutex<()>>,
    /// Places of the tokens that wait for a load.
    waiting: Semaphore,
    /// Tasks of the loads, so that a client that hangs up cannot stop a load. The timeout ends
    /// them.
    loads: TaskTracker,
}

/// Loads a key set once and returns the number of its usable keys.
///
/// # Errors
/// The reason why the key set could authenticate no user.
pub async fn probe(source: &JwksSource) -> Result<usize, NoKeys> {
    let no_client = |error: SetupError| NoKeys {
        what: format!("the keys of {source} cannot be loaded: {error}"),
        cure: "correct it".to_owned(),
    };
    match Source::open(source).map_err(no_client)?.load().await {
        Ok(keys) if keys.is_empty() => Err(NoKeys::of(source, &LoadError::NoKeys)),
        Ok(keys) => Ok(keys.len()),
        Err(error) => Err(NoKeys::of(source, &error)),
    }
}

/// Checks a source without network: a file must hold keys, an address must be a legal URL. Blocks.
///
/// # Errors
/// [`SetupError`], as [`Authenticator::open`](super::Authenticator::open) would.
pub fn check(source: &JwksSource) -> Result<(), SetupError> {
    let path = match source {
        JwksSource::Url(url) => return parse_url(url).map(drop),
        JwksSource::Discovery(issuer) => return configuration(issuer).map(drop),
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
    /// The issuer, and the address of its configuration.
    Discovery(Client, String, Url),
}

/// The part of an issuer's configuration that leads to its keys.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

struct Schedule {
    /// Age at which keys are loaded again.
    refresh: Duration,
    /// Shortest time between two loads.
    pause: Duration,
    /// Age from which keys are not used any more.
    max_age: Duration,
}

struct State {
    /// Usable keys; `None` until the first success.
    keys: Option<Vec<Arc<Key>>>,
    /// Time at which the last load began.
    began: Instant,
    /// Time at which the last load ended.
    tried: Instant,
    /// Time of the last load that succeeded.
    loaded: Instant,
    /// Whether the last load failed.
    is_failing: bool,
    /// Why the last loads failed, and how many did in a row.
    failure: Option<(NoKeys, u32)>,
}

impl Jwks {
    /// Opens a source. An address that does not answer is asked again until there are keys.
    pub(super) async fn open(name: JwksSource, max_age: Duration) -> Result<Arc<Self>, SetupError> {
        let source = Source::open(&name)?;
        let schedule = match name {
            JwksSource::File(_) => {
                Schedule { refresh: Duration::from_secs(10), pause: Duration::from_secs(1), max_age }
            }
            JwksSource::Url(_) | JwksSource::Discovery(_) => {
                Schedule { refresh: Duration::from_secs(10 * 60), pause: Duration::from_secs(30), max_age }
            }
        };
        let now = Instant::now();
        let state =
            State { keys: None, began: now, tried: now, loaded: now, is_failing: true, failure: None };
        let jwks = Self {
            name,
            source,
            schedule,
            state: Mutex::new(state),
            load_lock: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING),
            loads: TaskTracker::new(),
        };
        match (&jwks.source, jwks.source.load().await) {
            (Source::File(path), Err(source)) => Err(SetupError::JwksFile { path: path.clone(), source }),
            (Source::File(path), Ok(keys)) if keys.is_empty() => {
                Err(SetupError::JwksFile { path: path.clone(), source: LoadError::NoKeys })
            }
            (_, loaded) => {
                jwks.store(loaded, now);
                let jwks = Arc::new(jwks);
                jwks.loads.spawn(Self::keep_trying(Arc::downgrade(&jwks)));
                Ok(jwks)
            }
        }
    }

    /// Loads the keys whenever there is none to use, until the key set is dropped. A pod without
    /// keys is not ready, so that no token arrives.
    async fn keep_trying(jwks: Weak<Self>) {
        loop {
            sleep(PAUSE_WITHOUT_KEYS).await;
            let Some(jwks) = jwks.upgrade() else { return };
            if jwks.lack().is_some()
                && let Ok(guard) = Arc::clone(&jwks.load_lock).try_lock_owned()
            {
                jwks.load(guard).await;
            }
        }
    }

    /// Returns why there is no key to use, and how often it was tried; `None` if there is one.
    pub(super) fn lack(&self) -> Option<String> {
        let state = self.state();
        if state.keys.is_some() && !self.is_expired(&state) {
            return None;
        }
        let (cause, tries) = state.failure.as_ref()?;
        let times = if *tries > 1 { format!(" (tried {tries} times)") } else { String::new() };
        Some(format!("{cause}{times}"))
    }

    /// Returns the one key that can have signed a token with this header.
    ///
    /// Loads the keys first if they are old and no other load runs. Loads them also if no key fits
    /// and the schedule permits it. The wait for a load is at most [`FETCH_TIMEOUT`].
    pub(super) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, AuthError> {
        let came = Instant::now();
        if self.is_old()
            && let Ok(guard) = Arc::clone(&self.load_lock).try_lock_owned()
        {
            self.load(guard).await;
        }
        if let Some(key) = self.find(id, algorithm)? {
            return Ok(key);
        }
        let is_current = self.reload(came).await;
        // The token may be signed with a new key that was not loaded yet.
        let missing = if is_current { AuthError::UnknownKey } else { AuthError::KeysUnavailable };
        self.find(id, algorithm)?.ok_or(missing)
    }

    /// Loads the keys if the schedule permits it. Returns whether they were loaded since this time.
    /// The wait for a load is at most [`FETCH_TIMEOUT`]. If as many tokens wait as may, it returns
    /// at once.
    pub(super) async fn reload(self: &Arc<Self>, since: Instant) -> bool {
        let Ok(_waiting) = self.waiting.try_acquire() else { return false };
        self.load(Arc::clone(&self.load_lock).lock_owned().await).await;
        let state = self.state();
        !state.is_failing && state.began >= since
    }

    /// Finds the key with this id, or, without an id, the only key for the algorithm. Returns
    /// `None` if no key fits, or more than one.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Option<Arc<Key>>, AuthError> {
        let state = self.state();
        let named = || {
            let keys = state.keys.iter().filter(|_| !self.is_expired(&state)).flatten();
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
        state.keys.is_some() && state.loaded.elapsed() >= self.schedule.refresh
    }

    /// Returns whether the keys were loaded too long ago to be used.
    fn is_expired(&self, state: &State) -> bool {
        state.loaded.elapsed() >= self.schedule.max_age
    }

    /// Loads the keys, unless the last load was a moment ago (perhaps while this call waited for
    /// the lock).
    async fn load(self: &Arc<Self>, guard: OwnedMutexGuard<()>) {
        {
            let state = self.state();
            let has_keys = state.keys.is_some() && !self.is_expired(&state);
            let pause = match has_keys {
                true => self.schedule.pause,
                false => self.schedule.pause.min(PAUSE_WITHOUT_KEYS),
            };
            if state.tried.elapsed() < pause {
                return;
            }
        }
        let jwks = Arc::clone(self);
        let load = self.loads.spawn(async move {
            let began = Instant::now();
            let loaded = jwks.source.load().await;
            jwks.store(loaded, began);
            drop(guard);
        });
        // The state holds the result.
        load.await.ok();
    }

    fn store(&self, loaded: Result<Vec<Arc<Key>>, LoadError>, began: Instant) {
        let mut state = self.state();
        state.began = began;
        state.tried = Instant::now();
        state.is_failing = loaded.is_err();
        match loaded {
            Ok(keys) => {
                // An issuer that publishes an empty set has withdrawn its keys, so the old ones are
                // dropped.
                if keys.is_empty() {
                    tracing::warn!(source = %self.name, "the jwks holds no usable key");
                }
                match state.failure.take() {
                    Some((_, tries)) => {
                        tracing::info!(source = %self.name, keys = keys.len(), tries, "jwks loaded again");
                    }
                    None => tracing::debug!(source = %self.name, keys = keys.len(), "jwks loaded"),
                }
                // The source may withdraw a key while the load runs.
                state.loaded = began;
                state.keys = Some(keys);
            }
            Err(error) => {
                let cause = NoKeys::of(&self.name, &error);
                let tries = state.failure.as_ref().map_or(1, |(_, tries)| tries + 1);
                // Repeats are logged ever less often.
                if tries.is_power_of_two() {
                    let has_keys = state.keys.is_some();
                    tracing::warn!(error = %cause, has_keys, tries, "cannot load the jwks");
                }
                state.failure = Some((cause, tries));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Source {
    fn open(source: &JwksSource) -> Result<Self, SetupError> {
        Ok(match source {
            JwksSource::File(path) => Self::File(path.clone()),
            JwksSource::Url(url) => {
                let url = parse_url(url)?;
                Self::Url(Self::client(&url)?, url)
            }
            JwksSource::Discovery(issuer) => {
                let url = configuration(issuer)?;
                Self::Discovery(Self::client(&url)?, issuer.clone(), url)
            }
        })
    }

    fn client(url: &Url) -> Result<Client, SetupError> {
        // A redirect from https to http would let any machine on the way replace the keys.
        let scheme = url.scheme().to_owned();
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.url().scheme() != scheme || attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("redirected too often, or to another scheme");
            }
            attempt.follow()
        });
        let mut client = Client::builder().timeout(FETCH_TIMEOUT).redirect(redirects);
        // The client honours `HTTPS_PROXY` and the like, but a proxy cannot reach this machine's
        // localhost.
        if is_local(url) {
            client = client.no_proxy();
        }
        client.build().map_err(SetupError::HttpClient)
    }

    async fn load(&self) -> Result<Vec<Arc<Key>>, LoadError> {
        let bytes = match self {
            Self::File(path) => {
                let path = path.clone();
                spawn_blocking(move || read(&path)).await.map_err(io::Error::other)??
            }
            Self::Url(client, url) => fetch(client, url.clone()).await?,
            Self::Discovery(client, issuer, url) => {
                let discovered = timeout(FETCH_TIMEOUT, discover(client, issuer, url)).await;
                discovered.map_err(|_| LoadError::TooSlow)??
            }
        };
        Ok(key::parse(&bytes)?)
    }
}

fn parse_url(url: &str) -> Result<Url, SetupError> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or(SetupError::JwksUrl)
}

/// Returns whether the URL is on this machine.
fn is_local(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// Returns whether nothing on the way can change what the URL answers.
fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_local(url))
}

/// Returns the address of an issuer's configuration.
fn configuration(issuer: &str) -> Result<Url, SetupError> {
    // Errors name the issuer, and would name a password in it.
    let is_open = |url: &Url| url.username().is_empty() && url.password().is_none();
    let is_issuer =
        |url: &Url| is_safe(url) && is_open(url) && url.query().is_none() && url.fragment().is_none();
    Url::parse(issuer).ok().filter(is_issuer).ok_or(SetupError::Discovery)?;
    Url::parse(&format!("{}{CONFIGURATION}", issuer.trim_end_matches('/'))).map_err(|_| SetupError::Discovery)
}

/// Fetches the key set that the issuer's configuration names.
async fn discover(client: &Client, issuer: &str, url: &Url) -> Result<Vec<u8>, LoadError> {
    let document = fetch(client, url.clone()).await?;
    let found: Configuration = serde_json::from_slice(&document).map_err(LoadError::Configuration)?;
    if found.issuer != issuer {
        return Err(LoadError::OtherIssuer(found.issuer.chars().take(200).collect()));
    }
    // An issuer elsewhere must not lead to this machine.
    let is_allowed = |keys: &Url| is_safe(keys) && (!is_local(keys) || is_local(url));
    let keys = Url::parse(&found.jwks_uri).ok().filter(is_allowed).ok_or(LoadError::JwksUri)?;
    fetch(client, keys).await
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
    // The address may hold a password, which no error may repeat.
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
            assert!(
                matches!(&error, Some(LoadError::Fetch(error)) if error.is_redirect()),
                "{path}: {error:?}"
            );
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
}
