//! Keeps the issuer's public keys, and loads them again from their source.
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
mod source;

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

pub use self::source::{FETCH_TIMEOUT, JwksSource, MAX_BYTES, NoKeys, check, probe};
use self::{key::Key, source::Source};
use super::error::{AuthError, LoadError, SetupError};

/// Shortest time between two loads while there is no key at all. Every token is refused until then,
/// so it is shorter than [`Schedule::pause`].
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);

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

#[cfg(test)]
mod tests;
