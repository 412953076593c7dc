//! The composition root: builds one pod from the modules and runs it. [`drain`] ends it.
//!
//! It is the one place that sees all modules, so that they need not see one another. It must decide
//! nothing that a module can decide.

pub mod drain;
mod janitor;
mod settings;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::metrics::Meter;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::drain::{Parts, Stop};
pub use self::{
    drain::{Drain, Drained},
    settings::Settings,
};
use crate::{
    auth::{Authenticator, SetupError},
    broker::{Cleanup, ConnectError, Connected, Feed, Publish, Reopen},
    domain::Domain,
    graphql::{Api, Engine, EventPublisher},
    health::Health,
    hub::Hub,
    membership::{self, Membership},
    relay::{Relay, Retention},
    telemetry::{Metrics, Refusals, TelemetryError, Traces, traces::Messaging},
    web::{self, AppState, Connections, connection::Limits, server::serve},
};

/// Most sockets that may wait to be accepted. When another pod ends, its clients arrive all at
/// once. A client that finds no room retries only after a second. The kernel's limit is lower if
/// `net.core.somaxconn` is.
const BACKLOG: u32 = 4_096;

/// Why a pod did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address for clients cannot be listened on. Choose one that is free.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system reports.
        source: io::Error,
    },
    /// The address for probes and operators cannot be listened on. Choose one that is free.
    #[error("cannot listen on {address} for probes")]
    AdminListen {
        /// The address.
        address: SocketAddr,
        /// What the system reports.
        source: io::Error,
    },
    /// The metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Tokens cannot be checked with these settings.
    #[error(transparent)]
    Auth(#[from] SetupError),
    /// The broker cannot be connected with these settings.
    #[error(transparent)]
    Broker(#[from] ConnectError),
}

/// A running pod. If it is dropped, it stops without a drain.
pub struct Pod {
    address: SocketAddr,
    health: Health,
    hub: Hub,
    app: Arc<AppState>,
    publisher: Arc<dyn Publish>,
    traces: Traces,
    stop: Stop,
    tasks: TaskTracker,
    _abandoned: [DropGuard; 2],
}

impl Pod {
    /// Builds the pod and starts to serve clients. The pod is up at once, and ready when its feed
    /// receives from the topic. If the future is dropped, it leaves nothing behind.
    ///
    /// # Errors
    /// [`StartError`], if an address is taken or a setting can never work.
    pub async fn start(
        settings: Settings,
        domain: Arc<dyn Domain>,
        api: Arc<dyn Api>,
    ) -> Result<Self, StartError> {
        let address = settings.listen;
        let (listener, address) = listen(address).map_err(|source| StartError::Listen { address, source })?;
        let admin_listener = settings.admin_listen.map(|address| {
            let (listener, _) =
                listen(address).map_err(|source| StartError::AdminListen { address, source })?;
            Ok::<_, StartError>(listener)
        });
        let admin_listener = admin_listener.transpose()?;
        let metrics = Metrics::new(&settings.name, settings.export_metrics)?;
        let meter = metrics.meter();
        settings.traces.observe(&meter);
        let auth = Authenticator::open(settings.auth, domain.clone(), &meter).await?;
        // The broker comes after everything else that takes time, so that a cancelled start leaves
        // no feed behind.
        let broker = settings.broker;
        let messaging = Messaging {
            pod: settings.name.as_str().into(),
            system: broker.system(),
            topic: broker.topic().into(),
        };
        let least_retention = broker.limits().least_retention;
        let Connected { publisher, feed, cleanup } =
            broker.connect(&settings.name, settings.window.span).await?;

        let (stop, tasks) = (Stop::new(settings.drain), TaskTracker::new());
        let membership = Membership::new(
            membership::Settings {
                pod: messaging.pod.clone(),
                interval: settings.heartbeat_interval,
                orphan_after: settings.orphan_after,
            },
            &meter,
        );
        let health = Health::new(feed.state(), membership.clone(), stop.unready.clone());
        health.observe(&meter);
        let retention =
            Retention { began: SystemTime::now(), window: settings.window.span, least: least_retention };
        let hub = Hub::new(&messaging.topic, settings.window, retention.began);
        hub.observe(&meter);
        if settings.web.debug_token.is_some() {
            hub.follow_events();
        }
        let relay =
            Relay::new(domain.clone(), hub.clone(), membership.clone(), retention, messaging.clone(), &meter);
        let reopen = feed.reopen();
        tasks.spawn(run_relay(relay, feed, stop.feed.clone()));

        let event_publisher = EventPublisher::new(publisher.clone(), domain, messaging, &meter);
        let limits = Limits {
            connections: settings.web.max_connections,
            connections_per_address: settings.web.max_connections_per_address,
            keeps_cursors: settings.web.debug_token.is_some(),
        };
        let app = Arc::new(AppState {
            engine: Engine::new(
                api,
                event_publisher,
                hub.clone(),
                settings.introspection,
                Refusals::new(&meter),
            ),
            auth,
            hub: hub.clone(),
            connections: Connections::new(limits, stop.connections.clone(), stop.drain.spread, &meter),
            health: health.clone(),
            metrics,
            settings: settings.web,
        });
        if let Some(listener) = admin_listener {
            // The admin address answers until the very end, so that a drain can be watched.
            tasks.spawn(serve(listener, web::admin(app.clone()), stop.feed.clone()));
        }
        if let Some(cleanup) = cleanup {
            tasks.spawn(clean(cleanup, membership.clone(), settings.orphan_after, meter, stop.feed.clone()));
        }
        tasks.spawn(send_heartbeats(membership, publisher.clone(), reopen, app.clone(), stop.feed.clone()));
        tasks.spawn(serve(
            listener,
            web::router(app.clone(), settings.admin_listen.is_none()),
            stop.connections.clone(),
        ));
        tracing::info!(pod = settings.name, %address, "pod started");
        let _abandoned = [stop.connections.clone().drop_guard(), stop.feed.clone().drop_guard()];
        Ok(Self { address, health, hub, app, publisher, traces: settings.traces, stop, tasks, _abandoned })
    }

    /// Returns the address for clients.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the health of the pod, which includes whether it is ready.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Drains the pod: asks clients to reconnect elsewhere, deletes the feed, flushes publishing
    /// and telemetry. If the future is dropped, the pod stops at once.
    pub async fn drain(self) -> Drained {
        drain::run(Parts {
            stop: &self.stop,
            connections: &self.app.connections,
            tasks: &self.tasks,
            publisher: &*self.publisher,
            metrics: &self.app.metrics,
            traces: &self.traces,
        })
        .await
    }

    /// Returns the hub, which holds the pod's watchers.
    #[must_use]
    pub const fn hub(&self) -> &Hub {
        &self.hub
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without it, the port of a pod that has just ended would count as taken for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn run_relay(mut relay: Relay, mut feed: Box<dyn Feed>, close: CancellationToken) {
    select! {
        () = relay.run(feed.as_mut()) => {}
        () = close.cancelled() => {}
    }
    feed.close().await;
}

async fn send_heartbeats(
    membership: Membership,
    publisher: Arc<dyn Publish>,
    reopen: Reopen,
    app: Arc<AppState>,
    stop: CancellationToken,
) {
    let connections = || app.connections.count();
    stop.run_until_cancelled(membership.run(publisher.as_ref(), &reopen, connections)).await;
}

async fn clean(
    cleanup: Box<dyn Cleanup>,
    membership: Membership,
    every: Duration,
    meter: Meter,
    stop: CancellationToken,
) {
    let is_orphan = |pod: &str, created| membership.is_orphan(pod, created);
    stop.run_until_cancelled(janitor::run(cleanup, every, &is_orphan, &meter)).await;
}
