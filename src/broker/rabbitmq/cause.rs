//! [`Cause`]: why RabbitMQ does not do what a pod asks, in one line with the cure.

use std::time::Duration;

use lapin::ErrorKind;
use thiserror::Error;

use super::topic::Topic;

/// Why a step failed. The text names the cause and the cure.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub(super) struct Cause {
    text: String,
    /// Code of the broker's refusal; `None` if the broker did not answer.
    pub(super) code: Option<u16>,
}

impl Cause {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: None }
    }

    /// Explains that no answer came within this time.
    pub(super) fn silence(topic: &Topic, limit: Duration) -> Self {
        Self::new(format!("RabbitMQ at {} does not answer within {} s", topic.server, limit.as_secs()))
    }

    /// Explains an error of the client.
    pub(super) fn of(topic: &Topic, error: &lapin::Error) -> Self {
        let (address, user) = (&topic.server, topic.user());
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => refusal,
            ErrorKind::IOError(error) => {
                let error = error.to_string();
                let cure = if error.contains("certificate") {
                    ": set RELAY_BROKER_CA_FILE to the authority of the server's certificate, and RELAY_BROKER to \
                     its name"
                } else if error.contains("InvalidContentType") {
                    ": write amqp:// for a server without TLS"
                } else {
                    ""
                };
                return Self::new(format!("RabbitMQ at {address} cannot be reached: {error}{cure}"));
            }
            ErrorKind::MissingHeartbeatError => {
                return Self::new(format!("RabbitMQ at {address} fell silent"));
            }
            _ => return Self::new(format!("RabbitMQ at {address}: {error}")),
        };
        let (code, said) = (refusal.get_id(), refusal.get_message().as_str());
        let is_login = code == 403 && said.contains("Login was refused");
        let cure = match code {
            403 if is_login => {
                format!("check RELAY_BROKER_USER (now {user}) and RELAY_BROKER_PASSWORD_FILE")
            }
            403 => format!("give the user {user} the rights of docs/RABBITMQ.md"),
            404 if said.contains("is down or inaccessible") => {
                "wait until the stream's node is back".to_owned()
            }
            404 => "the stream was deleted, or no pod has created it yet".to_owned(),
            406 => "another queue has this name: delete it, or name another with ?stream=".to_owned(),
            530 => format!("create the virtual host {}, and give the user {user} its rights", topic.vhost),
            _ => String::new(),
        };
        let said = format!("RabbitMQ at {address} refuses: {said}");
        Self { text: if cure.is_empty() { said } else { format!("{said}: {cure}") }, code: Some(code) }
    }
}

/// Waits for a step of the client, for this time at most.
pub(super) async fn within<T>(
    topic: &Topic,
    limit: Duration,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Cause> {
    match tokio::time::timeout(limit, step).await {
        Ok(done) => done.map_err(|error| Cause::of(topic, &error)),
        Err(_) => Err(Cause::silence(topic, limit)),
    }
}
