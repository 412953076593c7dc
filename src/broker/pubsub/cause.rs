//! [`Cause`]: why a call to Pub/Sub failed, as one sentence with its cure.
//!
//! The pod's log, `/readyz` and the doctor use the same sentences. A sentence must never contain a
//! library's chain of errors or the debug output of a type.

use std::{error::Error as _, fmt, iter::successors};

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error;

use super::settings::Settings;

/// Cause of a failed call, and its cure.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// What happened.
    pub what: String,
    /// What the operator can do about it.
    pub cure: String,
    /// How far the call came.
    pub(super) reached: Reached,
}

/// How far a failed call came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reached {
    /// It was not made, for lack of credentials.
    Nothing,
    /// It found no connection.
    NoConnection,
    /// The service refused it.
    Service(Code),
    /// It got no answer, so its effect is unknown.
    Unknown,
}

impl Cause {
    /// Returns why this call failed.
    pub(super) fn of(call: &str, settings: &Settings, error: &Error) -> Self {
        // A policy of retries wraps the error of the last try.
        let error = successors(Some(error), |&error| error.source()?.downcast_ref()).last().unwrap_or(error);
        if let Some(status) = error.status() {
            return Self::refused(call, status.code, &status.message);
        }
        let causes = successors(error.source(), |&cause| cause.source());
        let root = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_authentication() {
            return Self::anonymous(&root);
        }
        if error.is_timeout() {
            return Self::silent(settings);
        }
        let reached = if error.is_connect() { Reached::NoConnection } else { Reached::Unknown };
        match error.http_status_code() {
            Some(status) => {
                let endpoint = settings.endpoint_name();
                let what = format!(
                    "cannot {call}: {endpoint} answers with HTTP status {status}, as Pub/Sub does not"
                );
                Self { what, cure: reach(settings), reached }
            }
            None => Self { reached, ..Self::unconnected(settings, &root) },
        }
    }

    /// Adds the proxy through which an administrative call went, unless the service itself refused
    /// it. Publishing and streams use no proxy.
    pub(super) fn through_proxy(mut self, settings: &Settings) -> Self {
        if let Some(proxy) = &settings.proxy
            && matches!(self.reached, Reached::NoConnection | Reached::Unknown)
        {
            self.what = format!("{}, asked through the proxy at {proxy} (HTTPS_PROXY)", self.what);
        }
        self
    }

    /// Returns the cause of a call that found no connection.
    pub(super) fn unconnected(settings: &Settings, why: &str) -> Self {
        let what = format!("no connection to {}: {why}", settings.endpoint_name());
        Self { what, cure: reach(settings), reached: Reached::NoConnection }
    }

    /// Returns the cause of a call that got no answer in time.
    pub(super) fn silent(settings: &Settings) -> Self {
        let what = format!("Pub/Sub at {} does not answer", settings.endpoint_name());
        Self { what, cure: reach(settings), reached: Reached::Unknown }
    }

    /// Returns why there is no client: its credentials cannot be read.
    pub(super) fn no_client(error: &(dyn std::error::Error + 'static)) -> Self {
        let why = successors(Some(error), |&cause| cause.source()).last().unwrap_or(error);
        let what = format!("the credentials for Google cannot be used: {why}");
        let cure = "correct the file that GOOGLE_APPLICATION_CREDENTIALS names, or unset it and give the pod an identity \
                    (Workload Identity)";
        Self { what, cure: cure.to_owned(), reached: Reached::Nothing }
    }

    /// Returns the cause of a call that was not made, for lack of credentials.
    fn anonymous(why: &str) -> Self {
        let cure = "give the pod an identity (Workload Identity) and let its traffic reach the metadata server \
                    (networkpolicy.yaml), or run gcloud auth application-default login";
        let what = format!("no credentials for Google: {why}");
        Self { what, cure: cure.to_owned(), reached: Reached::Nothing }
    }

    /// Returns the cause of a call that the service refused.
    pub(super) fn refused(call: &str, code: Code, message: &str) -> Self {
        let message = message.trim().trim_end_matches('.');
        let cure = match code {
            Code::PermissionDenied => "grant the pod's identity the role that terraform defines",
            Code::Unauthenticated => "correct the pod's identity: Google does not accept its credentials",
            Code::ResourceExhausted => "raise the quota, or delete what uses it",
            Code::NotFound => "create what is missing: terraform apply",
            Code::FailedPrecondition if message.contains("storage policy") => {
                "set RELAY_PUBSUB_ENDPOINT to the endpoint of a region that the policy allows"
            }
            Code::FailedPrecondition | Code::InvalidArgument => "correct the topic's settings",
            Code::Unavailable | Code::Internal | Code::Aborted | Code::DeadlineExceeded => {
                "wait; if it stays, see Google's status page"
            }
            _ => "run relay doctor",
        };
        let what = match code {
            Code::PermissionDenied => format!("permission denied to {call}: {message}"),
            _ => format!("Pub/Sub refuses to {call}: {message} ({})", code.name()),
        };
        Self { what, cure: cure.to_owned(), reached: Reached::Service(code) }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; cure: {}", self.what, self.cure)
    }
}

impl std::error::Error for Cause {}

/// Returns the cure if there is no way to Pub/Sub.
fn reach(settings: &Settings) -> String {
    let endpoint = settings.endpoint_name();
    match (&settings.emulator, &settings.proxy) {
        (Some(host), _) => format!("start the emulator at {host}, or correct PUBSUB_EMULATOR_HOST"),
        (None, Some(_)) => format!(
            "allow direct traffic of the pods to {endpoint} and name it in NO_PROXY: publishing and streams (gRPC) use \
             no proxy"
        ),
        (None, None) => format!("allow traffic of the pods to {endpoint} (networkpolicy.yaml)"),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use google_cloud_gax::error::{CredentialsError, rpc::Status};

    use super::*;

    #[test]
    fn sentence_names_cause_without_chain() {
        let settings = Settings {
            project: "p-1".to_owned(),
            topic: "events".to_owned(),
            pod: "pod".to_owned(),
            emulator: None,
            endpoint: None,
            proxy: None,
            replay_window: Duration::from_secs(600),
        };
        let sentence = |error: &Error| Cause::of("receive", &settings, error).to_string();
        let status =
            |code, message: &str| Error::service(Status::default().set_code(code).set_message(message));
        let quota = status(Code::ResourceExhausted, "Quota exceeded.");
        let expected = "Pub/Sub refuses to receive: Quota exceeded (RESOURCE_EXHAUSTED); cure: raise the quota, or \
                        delete what uses it";
        assert_eq!(sentence(&quota), expected);
        assert_eq!(sentence(&Error::exhausted(quota)), expected, "a retried call names its last error");
        let token = CredentialsError::from_source(false, io::Error::other("no token"));
        let anonymous = sentence(&Error::authentication(token));
        assert!(anonymous.starts_with("no credentials for Google: no token; cure: "), "{anonymous}");
    }
}
