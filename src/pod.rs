//! The composition root: builds one pod out of its rooms and runs it. [`drain`] ends it.

pub mod drain;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use opentelemetry::metrics::Meter;
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::drain::Stop;
pub use self::drain::{Drain, Drained};
use crate::{
    auth::{self, Authenticator},
    broker::pubsub::{self, Janitor, PubSub},
    broker::{Feed, Publish, Reopen, memory},
    domain::Domain,
    graphql::{Api, Engine, EventPublisher},
    health::Health,
    hub::{Hub, window::Bounds},
    membership::{self, Membership},
    relay::{Relay, Retention},
    telemetry::{Metrics, Otlp, Refusals, Traces},
    web::{self, AppState, Connections, connection::Limits, server::serve},
};

/// How many sockets may wait to be accepted: when another pod ends, its clients come all at once, and whoever finds no room
/// tries again only after a second. The kernel takes less if `net.core.somaxconn` is.
const BACKLOG: u32 = 4_096;

/// What a pod is built from.
pub struct Settings {
    /// Its name, unique among the living.
    pub name: String,
    /// Where clients come in; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where machines come in, if not with the clients.
    pub admin_listen: Option<SocketAddr>,
    /// Where its events go and come from.
    pub broker: Broker,
    /// How tokens are checked.
    pub auth: auth::Settings,
    /// What clients may do.
    pub web: web::Settings,
    /// Whether clients may ask for the schema.
    pub introspection: bool,
    /// How far back clients can resume, and how long event ids are remembered.
    pub window: Bounds,
    /// Between two heartbeats, in a membership that is not large.
    pub heartbeat_interval: Duration,
    /// How long a pod must have been silent for its feeds to be orphans.
    pub orphan_after: Duration,
    /// How it ends.
    pub drain: Drain,
    /// What its metrics are pushed to, besides being read.
    pub otlp: Otlp,
    /// The way of the process's spans.
    pub traces: Traces,
}

impl Settings {
    /// A pod on a laptop, for demo users: what `relay` is with nothing set, with a drain that waits for no balancer.
    #[must_use]
    pub fn local(name: impl Into<String>, listen: SocketAddr, broker: Broker) -> Self {
        let seconds = Duration::from_secs;
        Self {
            name: name.into(),
            listen,
            admin_listen: None,
            broker,
            auth: auth::Settings::Demo,
            web: web::Settings {
                origins: web::Origins::Localhost,
                queue_bytes: 256 << 10,
                max_connections: 50_000,
                max_connections_per_address: 0,
                max_watchers: 64,
                debug_token: None,
                page: Some(Vec::new()),
            },
            introspection: true,
            window: Bounds { span: seconds(600), bytes: 64 << 20 },
            heartbeat_interval: seconds(10),
            orphan_after: seconds(180),
            drain: Drain { delay: Duration::ZERO, spread: seconds(1), deadline: seconds(45) },
            otlp: Otlp::default(),
            traces: Traces::off(),
        }
    }
}

/// A broker, chosen.
pub enum Broker {
    /// One process; pods that share the topic hear each other.
    Memory(memory::Topic),
    /// Google Cloud Pub/Sub, or its emulator.
    PubSub(pubsub::Settings),
}

impl Broker {
    /// The topic's name, which tells its cursors from those of others.
    fn topic(&self) -> String {
        match self {
            Self::Memory(_) => "memory:".to_owned(),
            Self::PubSub(settings) => settings.topic_name(),
        }
    }
}

/// A running pod. Dropped, it stops without a drain.
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
    /// Builds the pod and lets clients in. It is up at once and ready when its feed hears the topic. Dropped before it is
    /// done, it leaves nothing behind.
    ///
    /// # Errors
    /// If an address is taken or a setting does not work.
    pub async fn start(
        settings: Settings,
        domain: Arc<dyn Domain>,
        api: Arc<dyn Api>,
    ) -> anyhow::Result<Self> {
        let listener = listen(settings.listen, "RELAY_LISTEN").await?;
        let admin_listener = match settings.admin_listen {
            Some(address) => Some(listen(address, "RELAY_ADMIN_LISTEN").await?),
            None => None,
        };
        let address = listener.local_addr()?;
        let metrics = Metrics::new(&settings.name, settings.otlp)?;
        let meter = metrics.meter();
        settings.traces.observe(&meter);
        let auth = Authenticator::open(settings.auth, domain.clone(), &meter).await?;
        // After all else that takes time: whoever gives the start up must not leave a feed behind.
        let topic = settings.broker.topic();
        let Connected { publisher, feed, janitor } = connect(settings.broker).await?;

        let (stop, tasks) = (Stop::new(settings.drain), TaskTracker::new());
        let membership = Membership::new(
            membership::Settings {
                pod: settings.name.as_str().into(),
                interval: settings.heartbeat_interval,
                orphan_after: settings.orphan_after,
            },
            &meter,
        );
        let health = Health::new(feed.state(), membership.clone(), stop.unready.clone());
        health.observe(&meter);
        let retention = Retention { began: SystemTime::now(), window: settings.window.span };
        let hub = Hub::new(&topic, settings.window, retention.began);
        hub.observe(&meter);
        if settings.web.debug_token.is_some() {
            hub.follow_events();
        }
        let relay = Relay::new(domain.clone(), hub.clone(), membership.clone(), retention, &meter);
        let reopen = feed.reopen();
        tasks.spawn(run_relay(relay, feed, stop.feed.clone()));

        let event_publisher = EventPublisher::new(publisher.clone(), domain, &settings.name, topic, &meter);
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
        if let Some(janitor) = janitor {
            tasks.spawn(clean(janitor, membership.clone(), settings.orphan_after, meter, stop.feed.clone()));
        }
        tasks.spawn(heartbeat(membership, publisher.clone(), reopen, app.clone(), stop.feed.clone()));
        tasks.spawn(serve(
            listener,
            web::router(app.clone(), settings.admin_listen.is_none()),
            stop.connections.clone(),
        ));
        tracing::info!(pod = settings.name, %address, "pod started");
        let _abandoned = [stop.connections.clone().drop_guard(), stop.feed.clone().drop_guard()];
        Ok(Self { address, health, hub, app, publisher, traces: settings.traces, stop, tasks, _abandoned })
    }

    /// Where clients come in.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the pod is ready.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Who watches on it.
    #[must_use]
    pub const fn hub(&self) -> &Hub {
        &self.hub
    }
}

/// A pod's ends of the topic.
struct Connected {
    publisher: Arc<dyn Publish>,
    feed: Box<dyn Feed>,
    /// Where a feed can outlive its pod.
    janitor: Option<Janitor>,
}

async fn connect(broker: Broker) -> anyhow::Result<Connected> {
    Ok(match broker {
        Broker::Memory(topic) => {
            let feed = Box::new(topic.open_feed());
            Connected { publisher: Arc::new(topic), feed, janitor: None }
        }
        Broker::PubSub(settings) => {
            let pubsub = PubSub::connect(settings).await?;
            let (feed, janitor) = (Box::new(pubsub.open_feed()), Some(pubsub.janitor()));
            Connected { publisher: pubsub.publisher(), feed, janitor }
        }
    })
}

async fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As everywhere on Unix: or the port of a pod that has just ended would be taken for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address}: set {setting} to an address that is free"))
}

async fn run_relay(mut relay: Relay, mut feed: Box<dyn Feed>, close: CancellationToken) {
    select! {
        () = relay.run(feed.as_mut()) => {}
        () = close.cancelled() => {}
    }
    feed.close().await;
}

async fn heartbeat(
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
    janitor: Janitor,
    membership: Membership,
    every: Duration,
    meter: Meter,
    stop: CancellationToken,
) {
    let is_orphan = |pod: &str, created| membership.is_orphan(pod, created);
    stop.run_until_cancelled(janitor.run(every, is_orphan, &meter)).await;
}
