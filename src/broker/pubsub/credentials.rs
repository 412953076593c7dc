//! [`Renewing`]: a pod's credentials for Google's service, renewed whenever they fail.
//!
//! Google's credentials end for good at some errors, such as one 404 of the metadata server, and
//! wait for ever for a server that does not answer. All clients of a pod share these, so that all
//! recover together. They must never delay a call for longer than [`TOKEN_TIMEOUT`].

use std::{error::Error, fmt, sync::Mutex, time::Duration};

use google_cloud_auth::{
    build_errors,
    credentials::{Builder, CacheableResource, Credentials, CredentialsProvider},
    errors::CredentialsError,
};
use http::{Extensions, HeaderMap};
use tokio::time::{Instant, timeout};

use crate::lock::lock;

/// Longest time to wait for a token; then the call fails. It is less than any call may take, so
/// that the call's error names the credentials.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time to wait for the domain of Google's services; then it is `googleapis.com`.
const DOMAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Least time between two renewals.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Application default credentials that are made anew after each failure.
#[derive(Debug)]
pub(super) struct Renewing {
    current: Mutex<Current>,
    /// The `host:port` of the proxy through which servers of tokens are asked. The metadata server
    /// is asked directly.
    proxy: Option<String>,
}

#[derive(Clone, Debug)]
struct Current {
    credentials: Credentials,
    made: Instant,
}

/// Why there is no token.
#[derive(Debug)]
struct NoToken(String);

impl Renewing {
    /// Creates the credentials. Needs no network.
    ///
    /// # Errors
    /// If the file of the credentials cannot be used.
    pub(super) fn credentials(proxy: Option<String>) -> Result<Credentials, build_errors::Error> {
        Ok(Self { current: Mutex::new(Current::new()?), proxy }.into())
    }

    /// Replaces these credentials, unless that happened meanwhile or a moment ago.
    fn renew(&self, failed: &Current) {
        let mut current = lock(&self.current);
        if current.made == failed.made
            && failed.made.elapsed() >= RENEWAL_PAUSE
            && let Ok(new) = Current::new()
        {
            *current = new;
        }
    }
}

impl Current {
    fn new() -> Result<Self, build_errors::Error> {
        Ok(Self { credentials: Builder::default().build()?, made: Instant::now() })
    }
}

impl CredentialsProvider for Renewing {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let current = lock(&self.current).clone();
        let why = match timeout(TOKEN_TIMEOUT, current.credentials.headers(extensions)).await {
            Ok(Ok(headers)) => return Ok(headers),
            Ok(Err(error)) => why(&error, self.proxy.as_deref()),
            Err(_) => match &self.proxy {
                None => "the metadata server does not answer".to_owned(),
                Some(proxy) => format!(
                    "neither the metadata server nor, with a key file, Google behind the proxy at {proxy} answers"
                ),
            },
        };
        self.renew(&current);
        // "Permanent" shows the error at once. Otherwise a stream hides it and retries for ever.
        Err(CredentialsError::from_source(false, NoToken(why)))
    }

    async fn universe_domain(&self) -> Option<String> {
        let credentials = lock(&self.current).credentials.clone();
        timeout(DOMAIN_TIMEOUT, credentials.universe_domain()).await.ok().flatten()
    }
}

/// Returns what the server of the tokens answered, without the words that wrap it.
fn why(error: &CredentialsError, proxy: Option<&str>) -> String {
    let causes = std::iter::successors(Some(error as &dyn Error), |&cause| cause.source());
    let mut last = String::new();
    for cause in causes {
        if let Some(google) = cause.downcast_ref::<google_cloud_gax::error::Error>()
            && let Some(status) = google.http_status_code()
        {
            return format!("the metadata server answers with HTTP status {status}");
        }
        if let Some(http) = cause.downcast_ref::<reqwest::Error>() {
            let host = http.url().and_then(|url| url.host_str()).unwrap_or("its server");
            if let Some(status) = http.status() {
                return format!("{host} answers with HTTP status {}", status.as_u16());
            }
            if http.is_connect() || http.is_timeout() {
                let is_tls = http.url().is_some_and(|url| url.scheme() == "https");
                return match proxy.filter(|_| is_tls) {
                    Some(proxy) => format!("{host} cannot be reached through the proxy at {proxy}"),
                    None => format!("{host} cannot be reached"),
                };
            }
        }
        last = cause.to_string();
    }
    last
}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NoToken {}
