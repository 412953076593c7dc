//! Cures: the settings to change when a pod does not start.
//!
//! The library's errors name no variable, because a program that embeds a pod has other settings. A
//! cure must never repeat a setting's value, which may be a secret.

use crate::{auth::SetupError, pod::StartError};

/// Adds the flag that cures the error of a pod of a cluster, and the cause.
#[must_use]
pub fn cure_in_cluster(error: StartError) -> anyhow::Error {
    match error {
        StartError::Listen { ref source, .. } => {
            anyhow::anyhow!(
                "{error}: set --port to the first of as many free ports as there are pods: {source}"
            )
        }
        error => cure(error),
    }
}

/// Adds the setting that cures the error, and the cause.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` wants")]
pub fn cure(error: StartError) -> anyhow::Error {
    let setting = match &error {
        StartError::Listen { .. } => "set RELAY_LISTEN to an address that is free",
        StartError::AdminListen { .. } => "set RELAY_ADMIN_LISTEN to an address that is free",
        StartError::Auth(SetupError::ShortSecret(_)) => "correct RELAY_JWT_SECRET or RELAY_JWT_SECRET_FILE",
        StartError::Auth(SetupError::JwksFile { .. } | SetupError::JwksUrl | SetupError::HttpClient(_)) => {
            "correct RELAY_JWT_JWKS"
        }
        StartError::Auth(SetupError::Discovery | SetupError::Issuers) => "correct RELAY_JWT_ISSUER",
        StartError::Telemetry(_) => "check RELAY_LOG and the variables that begin with OTEL_EXPORTER_OTLP_",
        // Its text states what to change.
        StartError::Broker(_) => return anyhow::anyhow!("{error}"),
    };
    let text = format!("{error}: {setting}");
    match std::error::Error::source(&error) {
        Some(source) => anyhow::anyhow!("{text}: {source}"),
        None => anyhow::anyhow!(text),
    }
}
