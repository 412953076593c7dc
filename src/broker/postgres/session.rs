//! [`Session`]: one connection to PostgreSQL, with the limits that all of a pod's connections have.
//!
//! A session is never repaired: after a failure its owner opens another one. It must never wait
//! longer than [`CONNECT_TIMEOUT`] for a connection.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::Notify, time::timeout};
use tokio_postgres::{AsyncMessage, Client, Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;

use super::{cause::Cause, settings::Topic};
use crate::broker::{ConnectError, tls};

/// Longest time until a connection is open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle time after which the system asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Time after which data that the other end does not confirm ends a connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a session at the server. The statement ends before the client gives up on it, and
/// the wait for a lock before the statement, so that the error names the lock. A dead pod's session
/// ends by keepalive.
const SETTINGS: &str = "set statement_timeout = '4s'; set lock_timeout = '3s'; \
                        set tcp_keepalives_idle = 30; set client_min_messages = warning";

/// Access of one pod to its topic, which all its sessions share.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) topic: Topic,
    pub(super) pod: Arc<str>,
    config: Config,
    tls: MakeRustlsConnect,
}

impl Access {
    /// Creates the access of the pod of this name.
    ///
    /// # Errors
    /// If there is no certificate authority that can be used.
    pub(super) fn new(topic: Topic, pod: &str) -> Result<Self, ConnectError> {
        let server = &topic.server;
        let mut config = Config::new();
        config
            .host(&server.host)
            .port(server.port)
            .dbname(&topic.database)
            .user(topic.user())
            .application_name(format!("relay/{pod}"))
            .keepalives_idle(KEEPALIVE)
            .tcp_user_timeout(SEND_TIMEOUT)
            .ssl_mode(if server.tls { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &server.login.password {
            config.password(password.reveal());
        }
        let tls = MakeRustlsConnect::new(tls::config(server)?);
        Ok(Self { topic, pod: pod.into(), config, tls })
    }
}

/// One connection. If it is dropped, it ends.
pub(super) struct Session {
    pub(super) client: Client,
    /// Wakes its one waiter at a note, and at the end of the connection.
    pub(super) notes: Arc<Notify>,
}

impl Session {
    /// Opens a connection. A task of `tasks` drives it until its end.
    ///
    /// # Errors
    /// [`Cause`], with a cure.
    pub(super) async fn open(access: &Access, tasks: &TaskTracker) -> Result<Self, Cause> {
        let open = async {
            let (client, mut connection) =
                access.config.connect(access.tls.clone()).await.map_err(|error| Cause::of(&error))?;
            let notes = Arc::new(Notify::new());
            let awake = notes.clone();
            tasks.spawn(async move {
                let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
                while let Some(Ok(message)) = messages.next().await {
                    if let AsyncMessage::Notification(_) = message {
                        awake.notify_one();
                    }
                }
                awake.notify_one();
            });
            client.batch_execute(SETTINGS).await.map_err(|error| Cause::of(&error))?;
            Ok(Self { client, notes })
        };
        timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err(Cause::silent("connect")))
    }
}
