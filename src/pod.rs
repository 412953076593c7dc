//! The composition root: builds one pod from the modules and runs it. [`drain`] ends it.
//!
//! It is the one place that sees all modules, so that they need not see one another. It must decide
//! nothing that a module can decide.

mod beginnings;
pub mod drain;
mod error;
mod janitor;
mod listeners;
mod rebalance;
mod settings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use tokio::{select, sync::watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    drain::{Drain, Drained},
    error::StartError,
    settings::Settings,
};
use self::{
    drain::{Parts, Stop},
    listeners::Listeners,
};
use crate::{
    auth::Authenticator,
    broker::{Connected, Feed, FeedState, Publish, Reopen, Upkeep},
    budget::{Budget, memory},
    counts::Counts,
    domain::Domain,
    graphql::{Api, Engine, EventPublisher, ReadAfter},
    health::Health,
    hub::Hub,
    membership::Membership,
    presence::{Presence, Waiting},
    question::{Inbox, Questions},
    relay::{Relay, Retention},
    revocations::Revocations,
    telemetry::{Metrics, Refusals, Traces, traces::Messaging},
    web::{
        self, AppState, Connections, Consoles,
        server::{Bounds, serve},
    },
};

/// A running pod. If it is dropped, it stops without a drain.
pub struct Pod {
    name: String,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
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
        let listeners = Listeners::bind(&settings)?;
        let kept = settings.window.bytes.saturating_add(settings.broker.limits().fetched_bytes);
        let connections = settings.web.max_connections;
        if let Some(warning) = settings.budget.warning(kept, connections, memory::limit()) {
            tracing::warn!("{warning}");
        }
        let metrics = Metrics::new(&settings.name, settings.export_metrics)?;
        settings.traces.observe(&metrics.meter());
        let auth = Authenticator::open(settings.auth.clone(), domain.clone(), &metrics.meter()).await?;
        // The broker comes after everything else that takes time, so that a cancelled start leaves
        // no feed behind.
        let connected = settings.broker.connect(&settings.name, settings.window.span).await?;
        let pod = Self::assemble(settings, domain, api, auth, metrics, connected, listeners);
        let page = pod.app.settings.page.as_ref().map(|_| format!("http://{}/", pod.address));
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(pod = pod.name, version, address = %pod.address, page, "pod started");
        Ok(pod)
    }

    /// Builds the parts of a pod and starts their tasks.
    fn assemble(
        settings: Settings,
        domain: Arc<dyn Domain>,
        api: Arc<dyn Api>,
        auth: Authenticator,
        metrics: Metrics,
        connected: Connected,
        listeners: Listeners,
    ) -> Self {
        let (meter, stop, tasks) = (metrics.meter(), Stop::new(settings.drain), TaskTracker::new());
        let Connected { publisher, feed, upkeep } = connected;
        let (messaging, membership) = (settings.messaging(), Membership::new(settings.membership(), &meter));
        let revocations =
            Revocations::new(membership.clone(), publisher.clone(), settings.revocation_age(), &meter);
        let auth = auth.with_revocations(revocations.clone());
        let health = health(feed.state(), &membership, &stop, &auth, &revocations);
        let retention = settings.retention();
        health.observe(&meter);
        let budget = Budget::new(settings.budget, settings.web.queue_bytes);
        budget.observe(&meter);
        let hub = open_hub(&settings, &messaging.topic, retention, &budget, &meter);
        let counts = begin_counts(&*domain, &hub, &membership, &stop, &tasks, &meter);
        let (questions, inbox) = Questions::new(membership.clone(), publisher.clone(), &meter);
        let relay =
            Relay::new(domain.clone(), hub.clone(), membership.clone(), retention, messaging.clone(), &meter)
                .with_rates(budget.rates.clone())
                .with_revocations(revocations.clone())
                .with_questions(questions.clone());
        let (read_after, reopen) = (read_after(&relay, &messaging, &budget, &meter), feed.reopen());
        let (introspection, refusals) = (settings.introspection, Refusals::new(&meter));
        tasks.spawn(run_relay(relay, feed, stop.feed.clone()));
        let event_publisher = EventPublisher::new(publisher.clone(), domain, messaging, &meter)
            .with_rates(budget.rates.clone())
            .with_clock(membership.clock().clone());
        let bounds = bounds(&settings.web, &budget, &refusals);
        let app = Arc::new(AppState {
            port: listeners.address.port(),
            engine: Engine::new(api, event_publisher, hub.clone(), introspection, refusals)
                .with_budget(budget.clone())
                .with_read_after(read_after)
                .with_counts(counts),
            budget,
            auth,
            revocations,
            hub: hub.clone(),
            connections: open_connections(&settings, &membership, &publisher, &stop, &tasks, &meter),
            health: health.clone(),
            questions,
            drain_asked: CancellationToken::new(),
            consoles: Consoles::default(),
            metrics,
            settings: settings.web,
        });
        report_status(&membership, &app);
        if let Some(upkeep) = upkeep {
            tasks.spawn(keep(upkeep, membership.clone(), settings.orphan_after, meter, stop.feed.clone()));
        }
        tasks.spawn(send_heartbeats(membership, publisher.clone(), reopen, app.clone(), stop.feed.clone()));
        spawn_chores(&tasks, &app, &settings.name, settings.rebalances, &stop);
        tasks.spawn(answer_questions(app.clone(), inbox, stop.feed.clone()));
        let Listeners { address, clients, admin, admin_address } = listeners;
        let router = web::router(app.clone(), admin.is_none() || settings.shares_probes);
        tasks.spawn(serve(clients, router, stop.connections.clone(), bounds.clone()));
        if let Some(admin) = admin {
            // The admin address answers until the very end, so that a drain can be watched.
            tasks.spawn(serve(admin, web::admin(&app), stop.feed.clone(), bounds));
        }
        let _abandoned = [stop.connections.clone().drop_guard(), stop.feed.clone().drop_guard()];
        let (name, traces) = (settings.name, settings.traces);
        Self { name, address, admin_address, health, hub, app, publisher, traces, stop, tasks, _abandoned }
    }

    /// Returns the address for clients.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address for probes and operators, if it is not that for clients.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Reports whether the pod serves a page at `/`.
    #[must_use]
    pub fn shows_page(&self) -> bool {
        self.app.settings.page.is_some()
    }

    /// Returns the health of the pod, which includes whether it is ready.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Waits until an operator asks the pod to drain. The program that runs the pod then drains it.
    /// Cancel-safe.
    pub async fn drain_asked(&self) {
        self.app.drain_asked.cancelled().await;
    }

    /// Drains the pod: asks clients to reconnect elsewhere, deletes the feed, flushes publishing
    /// and telemetry. If the future is dropped, the pod stops at once.
    pub async fn drain(self) -> Drained {
        drain::run(Parts {
            stop: &self.stop,
            membership: self.health.membership(),
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

/// Starts the tasks that need the app state alone.
fn spawn_chores(tasks: &TaskTracker, app: &Arc<AppState>, pod: &str, rebalances: bool, stop: &Stop) {
    if rebalances {
        tasks.spawn(rebalance::run(app.clone(), stop.unready.clone()));
    }
    tasks.spawn(revoke(app.clone(), stop.feed.clone()));
    tasks.spawn(log_beginnings(pod.to_owned(), app.clone(), stop.feed.clone()));
}

/// Returns the gates of the pod's readiness.
fn health(
    feed: watch::Receiver<FeedState>,
    membership: &Membership,
    stop: &Stop,
    auth: &Authenticator,
    revocations: &Revocations,
) -> Health {
    let (auth, revocations) = (auth.clone(), revocations.clone());
    Health::new(feed, membership.clone(), stop.unready.clone())
        .with_keys(move || auth.lack())
        .with_revocations(move || revocations.lack())
}

fn read_after(relay: &Relay, messaging: &Messaging, budget: &Budget, meter: &Meter) -> ReadAfter {
    ReadAfter::new(relay.applied().clone(), messaging.topic.clone(), budget.requests.clone(), meter)
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

/// Creates the set of connections, which are announced on the topic if the settings say so.
fn open_connections(
    settings: &Settings,
    membership: &Membership,
    publisher: &Arc<dyn Publish>,
    stop: &Stop,
    tasks: &TaskTracker,
    meter: &Meter,
) -> Connections {
    let limits = settings.web.connection_limits(settings.window.span);
    let connections = Connections::new(limits, stop.connections.clone(), stop.drain.spread, meter)
        .with_clock(membership.clock().clone());
    let (presence, waiting) = Presence::new(meter);
    if !settings.connection_events {
        return connections;
    }
    let (membership, publisher) = (membership.clone(), publisher.clone());
    tasks.spawn(announce(presence.clone(), waiting, membership, publisher, stop.feed.clone()));
    connections.with_presence(presence)
}

/// Publishes connect and disconnect events until the connections have ended.
async fn announce(
    presence: Presence,
    waiting: Waiting,
    membership: Membership,
    publisher: Arc<dyn Publish>,
    stop: CancellationToken,
) {
    let pods = || membership.size().pods;
    waiting.run(&presence, membership.pod(), publisher.as_ref(), pods, &stop).await;
}

/// Ends the connections of revoked tokens, and shares revocations with other pods.
async fn revoke(app: Arc<AppState>, stop: CancellationToken) {
    let end = async {
        let mut changes = app.revocations.changes();
        while changes.changed().await.is_ok() {
            let ended = app.end_refused();
            tracing::info!(ended, "connections of revoked tokens ended");
        }
    };
    stop.run_until_cancelled(async { tokio::join!(end, app.revocations.run()) }).await;
}

fn open_hub(settings: &Settings, topic: &str, since: Retention, budget: &Budget, meter: &Meter) -> Hub {
    let hub = Hub::new(topic, settings.window, since.began).with_budget(budget);
    hub.observe(meter);
    if settings.web.reading_token().is_some() {
        hub.follow_events();
    }
    hub
}

fn bounds(settings: &web::Settings, budget: &Budget, refusals: &Refusals) -> Bounds {
    let (requests, trusted) = (budget.requests.clone(), settings.trusted_proxies.clone());
    Bounds { requests, refusals: refusals.clone(), trusted }
}

/// Lets heartbeats report the status of this pod. The membership must not keep the pod in memory.
fn report_status(membership: &Membership, app: &Arc<AppState>) {
    let app = Arc::downgrade(app);
    membership.report(move || Some(web::admin::snapshot::status(&*app.upgrade()?)));
}

/// Answers the questions of other pods, if operators may ask at all.
async fn answer_questions(app: Arc<AppState>, inbox: Inbox, stop: CancellationToken) {
    if app.settings.reading_token().is_none() {
        return;
    }
    let answer = |question: &_| web::admin::why::answer(&app, question);
    stop.run_until_cancelled(app.questions.run(inbox, answer)).await;
}

/// Counts viewers by their keys, if clients of the domain may ask for that.
fn begin_counts(
    domain: &dyn Domain,
    hub: &Hub,
    membership: &Membership,
    stop: &Stop,
    tasks: &TaskTracker,
    meter: &Meter,
) -> Option<Counts> {
    let counts = Counts::new(hub.clone(), membership.clone(), meter);
    let counts = domain.counts_listeners().then(|| counts.begin())?;
    let (running, stop) = (counts.clone(), stop.feed.clone());
    tasks.spawn(async move {
        stop.run_until_cancelled(running.run()).await;
    });
    Some(counts)
}

async fn log_beginnings(pod: String, app: Arc<AppState>, stop: CancellationToken) {
    beginnings::log(&pod, &app, &stop).await;
}

async fn keep(
    upkeep: Upkeep,
    membership: Membership,
    every: Duration,
    meter: Meter,
    stop: CancellationToken,
) {
    let is_orphan = |pod: &str, created| membership.is_orphan(pod, created);
    stop.run_until_cancelled(janitor::run(upkeep, every, &is_orphan, &meter)).await;
}
