//! Cures: the settings to change when a pod does not start.
//!
//! The library's errors name no variable, since a program that embeds a pod has other settings.

use crate::{auth::SetupError, pod::StartError};

/// Adds to the error which setting cures it.
#[must_use]
pub fn cure(error: StartError) -> anyhow::Error {
    let setting = match &error {
        StartError::Listen { .. } => "set RELAY_LISTEN to an address that is free",
        StartError::AdminListen { .. } => "set RELAY_ADMIN_LISTEN to an address that is free",
        StartError::Auth(SetupError::ShortSecret(_)) => "the secret is that of RELAY_JWT_SECRET(_FILE)",
        StartError::Auth(SetupError::JwksFile { .. } | SetupError::JwksUrl | SetupError::HttpClient(_)) => {
            "the key set is that of RELAY_JWT_JWKS"
        }
        StartError::Telemetry(_) => "check RELAY_LOG and the variables that begin with OTEL_EXPORTER_OTLP_",
        StartError::Broker(_) => "the broker is that of RELAY_BROKER",
    };
    let text = format!("{error}: {setting}");
    match std::error::Error::source(&error) {
        Some(source) => anyhow::anyhow!("{text}: {source}"),
        None => anyhow::anyhow!(text),
    }
}
