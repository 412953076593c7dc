//! The composition root: builds one pod out of its rooms, runs it, drains it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tokio::{net::TcpListener, select, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    auth::{self, Authenticator},
    broker::{Feed, Publish, memory},
    contract::Domain,
    graphql::{Api, Engine, Outlet},
    health::Health,
    hub::{Hub, window::Bounds},
    pubsub::{self, PubSub},
    relay::Relay,
    telemetry::Metrics,
    web::{self, Connections, Site, serve::serve},
};

/// How long a pod may take to put away its feed and its publisher, once its connections have ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The longest that connections may take to end in a drain.
    pub drain_deadline: Duration,
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
            Self::PubSub(settings) => format!("projects/{}/topics/{}", settings.project, settings.topic),
        }
    }
}

/// A running pod. Dropped, it stops without a drain.
pub struct Pod {
    address: SocketAddr,
    health: Health,
    hub: Hub,
    site: Arc<Site>,
    publisher: Arc<dyn Publish>,
    drain: CancellationToken,
    close_feed: CancellationToken,
    tasks: TaskTracker,
    drain_deadline: Duration,
    _abandoned: [DropGuard; 2],
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended and the feed was put away.
    Cleanly,
    /// Something took too long and was cut off.
    CutOff,
}

impl Pod {
    /// Builds the pod and lets clients in. It is up at once and ready when its feed hears the topic.
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
        let auth = Authenticator::open(settings.auth, domain.clone()).await?;
        let topic = settings.broker.topic();
        let (publisher, feed) = connect(settings.broker).await?;

        let metrics = Metrics::new()?;
        let meter = metrics.meter();
        let (drain, close_feed, tasks) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let health = Health::new(feed.state(), drain.clone());
        let reach = SystemTime::now().checked_sub(settings.window.span).unwrap_or(SystemTime::UNIX_EPOCH);
        let hub = Hub::new(&topic, settings.window, reach);
        hub.observe(&meter);
        let relay = Relay::new(domain.clone(), hub.clone(), settings.window.span, &meter);
        tasks.spawn(run_relay(relay, feed, close_feed.clone()));

        let outlet = Outlet::new(publisher.clone(), domain, &settings.name, &meter);
        let site = Arc::new(Site {
            engine: Engine::new(api, outlet, hub.clone(), settings.introspection),
            auth,
            connections: Connections::new(&settings.web, drain.clone(), &meter),
            health: health.clone(),
            metrics,
            settings: settings.web,
        });
        if let Some(listener) = admin_listener {
            // The admin address answers until the very end, so that a drain can be watched.
            tasks.spawn(serve(listener, web::admin(site.clone()), close_feed.clone()));
        }
        tasks.spawn(serve(
            listener,
            web::router(site.clone(), settings.admin_listen.is_none()),
            drain.clone(),
        ));
        tracing::info!(pod = settings.name, %address, "pod started");
        let _abandoned = [drain.clone().drop_guard(), close_feed.clone().drop_guard()];
        let drain_deadline = settings.drain_deadline;
        Ok(Self {
            address,
            health,
            hub,
            site,
            publisher,
            drain,
            close_feed,
            tasks,
            drain_deadline,
            _abandoned,
        })
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

    /// Stops the pod: connections are asked to come back elsewhere, the feed is deleted, publishing is flushed.
    pub async fn drain(self) -> Drained {
        self.drain.cancel();
        let connections = self.site.connections.tasks();
        connections.close();
        let left = timeout(self.drain_deadline, connections.wait()).await;
        let flushed = timeout(CLOSE_TIMEOUT, self.publisher.flush()).await;
        self.close_feed.cancel();
        self.tasks.close();
        let closed = timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
        if let (Ok(()), Ok(()), Ok(())) = (&left, &flushed, &closed) {
            tracing::info!("pod drained");
            return Drained::Cleanly;
        }
        let [connections, publisher, feed] = [left, flushed, closed].map(|step| step.is_ok());
        tracing::warn!(connections, publisher, feed, "drain cut off");
        Drained::CutOff
    }
}

async fn connect(broker: Broker) -> anyhow::Result<(Arc<dyn Publish>, Box<dyn Feed>)> {
    Ok(match broker {
        Broker::Memory(topic) => (Arc::new(topic.clone()), Box::new(topic.open_feed())),
        Broker::PubSub(settings) => {
            let pubsub = PubSub::connect(settings).await?;
            (pubsub.publisher(), Box::new(pubsub.open_feed()))
        }
    })
}

async fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}: set {setting} to an address that is free"))
}

async fn run_relay(mut relay: Relay, mut feed: Box<dyn Feed>, close: CancellationToken) {
    select! {
        () = relay.run(feed.as_mut()) => {}
        () = close.cancelled() => {}
    }
    feed.close().await;
}
