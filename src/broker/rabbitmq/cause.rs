//! [`Cause`]: why RabbitMQ does not do what a pod asks, in one line with the cure.
//!
//! The pod's log, `/readyz` and the doctor use the same sentences. A sentence must never contain a
//! password or the data of an event.

use std::time::Duration;

use lapin::ErrorKind;
use thiserror::Error;

use super::topic::Topic;

/// Cause of a failure, and its cure.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what}: {cure}")]
pub struct Cause {
    /// What happened.
    pub what: String,
    /// What the operator can do about it.
    pub cure: String,
    /// Code of the broker's refusal; `None` if the broker did not answer.
    pub(super) code: Option<u16>,
}

impl Cause {
    pub(super) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what: what.into(), cure: cure.into(), code: None }
    }

    /// Explains that no answer came within this time.
    pub(super) fn silence(topic: &Topic, limit: Duration) -> Self {
        let what = format!("RabbitMQ at {} does not answer within {} s", topic.server, limit.as_secs());
        Self::new(what, "check the network and the broker's load")
    }

    /// Explains an error of the client.
    pub(super) fn of(topic: &Topic, error: &lapin::Error) -> Self {
        let (address, user) = (&topic.server, topic.user());
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => refusal,
            ErrorKind::IOError(error) => {
                let error = error.to_string();
                let cure = if error.contains("certificate") {
                    "set RELAY_BROKER_CA_FILE to the authority of the server's certificate, and RELAY_BROKER to its \
                     name"
                } else if error.contains("InvalidContentType") {
                    "write amqp:// for a server without TLS"
                } else {
                    "check that the broker runs and that the pods may reach it"
                };
                return Self::new(format!("RabbitMQ at {address} cannot be reached: {error}"), cure);
            }
            ErrorKind::MissingHeartbeatError => {
                return Self::new(format!("RabbitMQ at {address} fell silent"), "check the network");
            }
            _ => return Self::new(format!("RabbitMQ at {address}: {error}"), "see the broker's log"),
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
            _ => "see the broker's log".to_owned(),
        };
        let what = format!("RabbitMQ at {address} refuses: {said}");
        Self { what, cure, code: Some(code) }
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
