//! Runs the pods of `relay cluster`, and does what the page of the cluster asks for.
//!
//! The pods share the topic, and nothing else. The deaf pods, which the page compares them with,
//! share not even that. It is for a laptop only.

use std::{ffi::OsString, future::pending, io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use pubsub_relay::{
    auth,
    broker::{Broker, memory},
    cli::{
        cluster::{self, ClusterBroker, ClusterSecrets, NamedPod},
        config::Wanted,
        cure::cure_in_cluster,
        emulator::Search,
    },
    pod::{Drained, Pod, Settings},
    shutdown::Signals,
    web::{
        AllowedOrigin, Origins,
        page::story::{Place, Request, Story},
    },
};
use tokio::{join, select, sync::mpsc};
use tokio_util::task::TaskTracker;

use super::{domain_factory::DomainFactory, drain};

/// Parts of a cluster besides the settings of its pods.
pub(crate) struct Parts {
    pub(crate) first_port: u16,
    pub(crate) pods: u16,
    pub(crate) wanted: Wanted,
    pub(crate) cloudsdk_root: Option<PathBuf>,
    pub(crate) path: Option<OsString>,
    pub(crate) emulator_host: Option<String>,
}

/// Runs the pods of a cluster until a signal, and drains them.
pub(crate) async fn run(
    mut settings: Settings,
    domains: &DomainFactory,
    parts: Parts,
) -> anyhow::Result<Drained> {
    let mut signals = Signals::listen()?;
    let Parts { first_port, pods, wanted, cloudsdk_root, path, emulator_host } = parts;
    let (window, search) = (settings.window, Search { cloudsdk_root, path });
    let broker = select! {
        broker = ClusterBroker::start(wanted, emulator_host, &search, window.span, window.bytes) => broker?,
        _ = signals.next() => return Ok(Drained::Cleanly),
    };
    let secrets = ClusterSecrets::new(settings.control_secrets.take());
    secrets.give(&mut settings);
    let deaf = places("deaf", cluster::deaf_addresses(first_port, pods).into_iter());
    let pods = places("pod", cluster::addresses(first_port, pods));
    let (story, requests) = Story::new(pods, deaf, domains.story());
    show(&mut settings, &story);
    let mut members =
        Members { settings, domains, story, pods: Vec::new(), deaf: Vec::new(), ending: TaskTracker::new() };
    let ran = select! {
        ran = members.run(&broker, &secrets, requests) => ran,
        _ = signals.next() => Ok(()),
    };
    let drained = drain(members.end(), async { signals.next().await }).await;
    broker.stop().await;
    ran.map(|()| drained)
}

/// Names the pods at these addresses, from 1 on.
fn places(of: &str, addresses: impl Iterator<Item = SocketAddr>) -> Vec<Place> {
    (1..).zip(addresses).map(|(n, address)| Place { name: format!("{of}-{n}"), address }).collect()
}

/// Lets the pods show the story, and lets its page connect to each of them. It knows the demo users
/// only.
fn show(settings: &mut Settings, story: &Story) {
    if settings.web.page.is_none() || !matches!(settings.auth, auth::Settings::Demo) {
        return;
    }
    if let Origins::List(origins) = &mut settings.web.origins {
        origins.extend(story.origins().filter_map(|origin| AllowedOrigin::parse(&origin)));
    }
    settings.web.story = Some(story.clone());
}

/// Waits until an operator asks one of the pods to drain. Returns its name.
async fn drain_asked(pods: &[NamedPod]) -> String {
    let asked = pods.iter().map(|pod| async {
        pod.drain_asked().await;
        pod.name().to_owned()
    });
    match asked.collect::<FuturesUnordered<_>>().next().await {
        Some(name) => name,
        None => pending().await,
    }
}

/// Pods of a cluster.
struct Members<'a> {
    settings: Settings,
    domains: &'a DomainFactory,
    story: Story,
    pods: Vec<NamedPod>,
    deaf: Vec<NamedPod>,
    /// Drains of pods that start again. They go on if their request is given up.
    ending: TaskTracker,
}

impl Members<'_> {
    /// Starts the pods and does what the page asks for. Never ends by itself.
    async fn run(
        &mut self,
        broker: &ClusterBroker,
        secrets: &ClusterSecrets,
        mut requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<()> {
        for place in self.story.clone().pods() {
            let pod = self.start(place, broker.broker(), self.settings.clone()).await?;
            self.pods.push(pod);
        }
        cluster::wait_until_ready(&self.pods).await;
        cluster::welcome(&mut io::stdout(), broker, &self.pods, secrets)?;
        loop {
            let request = select! {
                Some(request) = requests.recv() => request,
                name = drain_asked(&self.pods) => Request::Restart(name),
            };
            match request {
                Request::Restart(name) => self.restart(&name, broker).await,
                Request::StartDeaf(report) => {
                    let started = self.start_deaf().await.map_err(|error| format!("{error:#}\n"));
                    // The page may have gone meanwhile.
                    let _ = report.send(started);
                }
            }
        }
    }

    async fn start(
        &self,
        place: &Place,
        broker: Arc<dyn Broker>,
        mut settings: Settings,
    ) -> anyhow::Result<NamedPod> {
        let (domain, api) = self.domains.make(settings.window.span);
        (settings.name, settings.listen, settings.broker) = (place.name.clone(), place.address, broker);
        let pod = NamedPod::start(place.name.clone(), Pod::start(settings, domain, api)).await?;
        pod.map_err(cure_in_cluster)
    }

    /// Drains the pod and starts it again at its addresses. If it does not start, another request
    /// may try again.
    async fn restart(&mut self, name: &str, broker: &ClusterBroker) {
        let (story, mut settings) = (self.story.clone(), self.settings.clone());
        let Some(place) = story.pods().iter().find(|place| place.name == name) else { return };
        tracing::info!(pod = name, "restarting, as a page asks");
        if let Some(n) = self.pods.iter().position(|pod| pod.name() == name) {
            let pod = self.pods.swap_remove(n);
            settings.admin_listen = pod.admin_address().or(settings.admin_listen);
            if let Err(error) = self.ending.spawn(pod.drain()).await {
                tracing::error!(pod = name, %error, "drain failed");
            }
        }
        match self.start(place, broker.broker(), settings).await {
            Ok(pod) => self.pods.push(pod),
            Err(error) => tracing::error!(pod = name, "not started again: {error:#}"),
        }
    }

    /// Starts the deaf pods, unless they run. Each has a topic of its own, in memory.
    async fn start_deaf(&mut self) -> anyhow::Result<()> {
        if !self.deaf.is_empty() {
            return Ok(());
        }
        let (window, mut pods) = (self.settings.window, Vec::new());
        let mut settings = self.settings.clone();
        (settings.web.page, settings.web.story, settings.web.admin_token) = (None, None, None);
        for place in self.story.clone().deaf() {
            let topic = memory::Topic::new(window.span, window.bytes);
            pods.push(self.start(place, Arc::new(topic), settings.clone()).await?);
        }
        cluster::wait_until_ready(&pods).await;
        self.deaf = pods;
        Ok(())
    }

    /// Drains all pods.
    async fn end(mut self) -> Drained {
        self.pods.append(&mut self.deaf);
        self.ending.close();
        join!(cluster::drain(self.pods), self.ending.wait()).0
    }
}
