//! [`Deployment`]: pods of one topic that start and stop as under an orchestrator, with the list of
//! ports that a balancer would use.
//!
//! Scenarios change the deployment while clients watch. A pod's name must never be used twice.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    resuming::Ports,
    support::{Relay, Setup, Topic},
};

/// Settings of every pod here: the membership's times are short, so that they pass within a test.
const SETTINGS: [(&str, &str); 2] = [("RELAY_HEARTBEAT_INTERVAL", "1s"), ("RELAY_ORPHAN_AFTER", "5s")];

/// Silence after which a pod counts as dead; the value of `RELAY_ORPHAN_AFTER` above.
pub(crate) const ORPHAN_AFTER: Duration = Duration::from_secs(5);

/// Pods on one topic.
pub(crate) struct Deployment {
    topic: Topic,
    settings: Vec<(&'static str, String)>,
    pub(crate) pods: Vec<Relay>,
    pub(crate) ports: Ports,
    /// Number of pods started so far. It makes names that are never used twice, as in Kubernetes.
    started: usize,
}

impl Deployment {
    /// Starts this many pods and waits until they are ready.
    pub(crate) async fn start(topic: &Topic, pods: usize, settings: &[(&'static str, &str)]) -> Self {
        let settings =
            SETTINGS.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut deployment =
            Self { topic: topic.clone(), settings, pods: Vec::new(), ports: Ports::default(), started: 0 };
        let setups: Vec<_> = (0..pods).map(|_| deployment.setup()).collect();
        deployment.pods = join_all(setups.into_iter().map(Setup::start)).await;
        for pod in &deployment.pods {
            deployment.ports.add(pod.port());
        }
        deployment
    }

    /// Starts this many pods without waiting until they are ready.
    pub(crate) fn launch(topic: &Topic, pods: usize) -> Self {
        let mut deployment = Self::new(topic, &[]);
        for _ in 0..pods {
            let pod = deployment.setup().launch();
            deployment.ports.add(pod.port());
            deployment.pods.push(pod);
        }
        deployment
    }

    fn new(topic: &Topic, settings: &[(&'static str, &str)]) -> Self {
        let settings = SETTINGS.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned()));
        let (pods, ports) = (Vec::new(), Ports::default());
        Self { topic: topic.clone(), settings: settings.collect(), pods, ports, started: 0 }
    }

    fn setup(&mut self) -> Setup {
        self.started += 1;
        let setup = Setup::new(&format!("pod{}", self.started)).topic(&self.topic);
        self.settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value))
    }

    /// Starts one more pod, on a free port or on the port of a pod that is gone.
    pub(crate) async fn add(&mut self, port: Option<u16>) {
        let setup = self.setup();
        let pod = match port {
            Some(port) => setup.at(port).start().await,
            None => setup.start().await,
        };
        self.ports.add(pod.port());
        self.pods.push(pod);
    }

    /// Removes the oldest pod from the deployment and from the balancer's list, and returns it.
    pub(crate) fn retire(&mut self) -> Relay {
        let pod = self.pods.remove(0);
        self.ports.remove(pod.port());
        pod
    }

    /// Removes the newest pod in the same way.
    pub(crate) fn retire_newest(&mut self) -> Relay {
        let pod = self.pods.pop().unwrap();
        self.ports.remove(pod.port());
        pod
    }

    pub(crate) async fn until_ready(&mut self, limit: Duration) {
        for pod in &mut self.pods {
            pod.until_ready(limit).await;
        }
    }

    /// Returns the sum of a metric over all pods.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "").await
    }

    /// Returns the sum over all pods, and over the series that have this label.
    pub(crate) async fn metric_of(&self, name: &str, label: &str) -> f64 {
        join_all(self.pods.iter().map(|pod| pod.metric_of(name, label))).await.into_iter().sum()
    }
}
