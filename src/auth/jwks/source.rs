//! Sources of a JWKS: a file, an address, or an issuer that names the address.
//!
//! Each load is bounded in time and bytes. A source must never lead to another machine than the
//! operator named, or than a safe issuer names.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read as _},
    iter::successors,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use tokio::{task::spawn_blocking, time::timeout};

use super::key::{self, Key};
use crate::auth::error::{LoadError, SetupError};

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
pub(super) const CONFIGURATION: &str = "/.well-known/openid-configuration";

/// Why a source gives no keys, and what cures it.
#[derive(Clone, Debug)]
pub struct NoKeys {
    /// What happened, with the name of the source.
    pub what: String,
    /// What the operator can do about it.
    pub cure: String,
}

impl NoKeys {
    pub(super) fn of(source: &JwksSource, error: &LoadError) -> Self {
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

const MAX_REDIRECTS: usize = 3;

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
/// [`SetupError`], as [`Authenticator::open`](crate::auth::Authenticator::open) would.
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

/// Opened source.
pub(super) enum Source {
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

impl Source {
    /// Opens a source, without network.
    pub(super) fn open(source: &JwksSource) -> Result<Self, SetupError> {
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

    /// Loads the keys that can be used.
    pub(super) async fn load(&self) -> Result<Vec<Arc<Key>>, LoadError> {
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
