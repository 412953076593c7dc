//! [`Deployment`]: pods of one topic that come and go, as an orchestrator lets them, and the balancer before them.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    resuming::Ports,
    support::{Relay, Setup, Topic},
};

/// What every pod here is set to: the membership's times are short, so that they pass within a test.
const SETTINGS: [(&str, &str); 2] = [("RELAY_HEARTBEAT_INTERVAL", "1s"), ("RELAY_ORPHAN_AFTER", "5s")];

/// After what silence a pod counts as dead, as set here.
pub(crate) const ORPHAN_AFTER: Duration = Duration::from_secs(5);

/// Pods on one topic.
pub(crate) struct Deployment {
    topic: Topic,
    settings: Vec<(&'static str, String)>,
    pub(crate) pods: Vec<Relay>,
    pub(crate) ports: Ports,
    /// How many pods there have been: a name is never used twice, as in Kubernetes.
    born: usize,
}

impl Deployment {
    /// So many pods, ready.
    pub(crate) async fn start(topic: &Topic, pods: usize, settings: &[(&'static str, &str)]) -> Self {
        let settings =
            SETTINGS.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut deployment =
            Self { topic: topic.clone(), settings, pods: Vec::new(), ports: Ports::default(), born: 0 };
        let setups: Vec<_> = (0..pods).map(|_| deployment.setup()).collect();
        deployment.pods = join_all(setups.into_iter().map(Setup::start)).await;
        for pod in &deployment.pods {
            deployment.ports.add(pod.port());
        }
        deployment
    }

    /// So many pods, of which nobody knows whether they will ever be ready.
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
        Self { topic: topic.clone(), settings: settings.collect(), pods, ports, born: 0 }
    }

    fn setup(&mut self) -> Setup {
        self.born += 1;
        let setup = Setup::new(&format!("pod{}", self.born)).topic(&self.topic);
        self.settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value))
    }

    /// One more pod, on a port of its own or on that of one that is gone.
    pub(crate) async fn add(&mut self, port: Option<u16>) {
        let setup = self.setup();
        let pod = match port {
            Some(port) => setup.at(port).start().await,
            None => setup.start().await,
        };
        self.ports.add(pod.port());
        self.pods.push(pod);
    }

    /// Takes the oldest pod out of the balancer.
    pub(crate) fn retire(&mut self) -> Relay {
        let pod = self.pods.remove(0);
        self.ports.remove(pod.port());
        pod
    }

    pub(crate) async fn until_ready(&mut self, limit: Duration) {
        for pod in &mut self.pods {
            pod.until_ready(limit).await;
        }
    }

    /// The sum of a metric over all pods.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        join_all(self.pods.iter().map(|pod| pod.metric(name))).await.into_iter().sum()
    }
}
