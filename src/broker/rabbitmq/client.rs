//! [`Client`]: one connection to RabbitMQ, which ends at once when it is given up.
//!
//! The client's crate would wait without a limit for a handshake that gets no answer, with a thread
//! for each. Here a second handle of the socket shuts it down. There is no recovery by the crate:
//! the feed and the publisher make a new connection.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    AsyncTcpStream, Channel, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt as _, RustlsConnector},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use socket2::{SockRef, Socket};
use tokio::time::timeout;

use super::{
    cause::{Cause, within},
    topic::Topic,
};
use crate::broker::{ConnectError, tls};

/// Longest time for a connection, or for one answer of the broker.
const STEP_TIMEOUT: Duration = Duration::from_secs(4);

/// Interval in seconds at which both ends send a sign of life. After two intervals without a sign,
/// the connection ends.
const HEARTBEAT: u16 = 5;

/// Longest time for a farewell. Without it the broker notices the end of the socket all the same.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Access of one pod to its topic, which all its connections share.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) topic: Topic,
    pub(super) pod: Arc<str>,
    tls: RustlsConnector,
}

impl Access {
    /// Creates the access of the pod of this name.
    ///
    /// # Errors
    /// If there is no certificate authority that can be used.
    pub(super) fn new(topic: Topic, pod: &str) -> Result<Self, ConnectError> {
        let tls = tls::config(&topic.server)?.into();
        Ok(Self { topic, pod: pod.into(), tls })
    }
}

/// Connection to RabbitMQ. Dropped, it ends at once.
pub(super) struct Client {
    topic: Topic,
    connection: Connection,
    _owner: Owner,
}

/// Owner of a socket: dropped, it shuts the socket down, even one that opens later.
struct Owner(Arc<Shared>);

#[derive(Default)]
struct Shared {
    socket: OnceLock<Socket>,
    is_given_up: AtomicBool,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.is_given_up.store(true, Ordering::SeqCst);
        if let Some(socket) = self.0.socket.get() {
            // An error means that the socket is closed already.
            socket.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

impl Client {
    /// Connects. The broker lists the connection by the pod's name and this part of the pod.
    pub(super) async fn connect(access: &Access, part: &str) -> Result<Self, Cause> {
        let Access { topic, pod, tls } = access;
        let (owner, tls) = (Owner(Arc::default()), tls.clone());
        let name = format!("relay/{pod} {part}");
        let shared = owner.0.clone();
        let runtime = lapin::runtime::default_runtime().map_err(|error| Cause::of(topic, &error))?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connector(
            uri(topic),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
                let connected = timeout(STEP_TIMEOUT, plain.connect_async(&runtime)).await;
                let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    // An error would mean a second connection, which the crate does not make.
                    shared.socket.set(SockRef::from(stream.get_ref()).try_clone()?).ok();
                }
                if shared.is_given_up.load(Ordering::SeqCst) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
                }
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => {
                        let handshake = stream.into_rustls(&tls, &uri.authority.host);
                        let connected = timeout(STEP_TIMEOUT, handshake).await;
                        Ok(connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?)
                    }
                }
            },
            properties,
        );
        let connection = within(topic, STEP_TIMEOUT, connecting).await?;
        Ok(Self { topic: topic.clone(), connection, _owner: owner })
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, Cause> {
        self.step(self.connection.create_channel()).await
    }

    /// Waits for an answer of the broker.
    pub(super) async fn step<T>(&self, step: impl Future<Output = lapin::Result<T>>) -> Result<T, Cause> {
        within(&self.topic, STEP_TIMEOUT, step).await
    }

    /// Returns whether the broker takes nothing, since it lacks memory or disk.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends the connection with a farewell.
    pub(super) async fn close(self) {
        // An error means that it has ended already.
        timeout(CLOSE_TIMEOUT, self.connection.close(200, "".into())).await.ok();
    }
}

fn uri(topic: &Topic) -> AMQPUri {
    let (username, password) = (topic.user().to_owned(), topic.password().to_owned());
    let server = &topic.server;
    AMQPUri {
        scheme: if server.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password },
            host: server.host.clone(),
            port: server.port,
        },
        vhost: topic.vhost.clone(),
        query: AMQPQueryString { heartbeat: Some(HEARTBEAT), ..Default::default() },
    }
}
