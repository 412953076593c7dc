//! Readiness (should this pod get traffic) and liveness (should its process keep running).
//!
//! A pod is ready when its feed brings its own heartbeats back, it can publish, it has the keys of
//! tokens, and it is not draining. A feed that is late for all pods leaves them ready, and
//! degraded: if all were unready, a load balancer would have none to choose. A pod is live as long
//! as it answers at all: liveness must never depend on the broker or an issuer, since no restart
//! cures their outages.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::Meter};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::FeedState,
    membership::{Member, Membership, Size},
};

/// Gates that readiness depends on. Clones read the same gates.
#[derive(Clone)]
pub struct Health {
    feed: watch::Receiver<FeedState>,
    membership: Membership,
    drain: CancellationToken,
    keys: Option<Gate>,
    revocations: Option<Gate>,
}

/// Gate of another module: why it is closed, or `None`.
type Gate = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Readiness of the pod and what prevents it, as `/readyz` returns it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Readiness {
    /// Whether all gates are open.
    pub ready: bool,
    /// Whether the pod is ready although its feed is late, as for all members.
    pub degraded: bool,
    /// One line for each closed gate, and one for a late feed.
    pub reasons: Vec<String>,
    /// Live pods and their connections. This pod is among them once its heartbeats come back.
    pub membership: Size,
    /// Seconds that this pod's last heartbeat took to come back; `None` before the first.
    pub lag: Option<f64>,
}

impl Health {
    /// Creates the readiness of a pod with this feed. The pod is not ready once `drain` is
    /// cancelled.
    #[must_use]
    pub const fn new(
        feed: watch::Receiver<FeedState>,
        membership: Membership,
        drain: CancellationToken,
    ) -> Self {
        Self { feed, membership, drain, keys: None, revocations: None }
    }

    /// Adds the gate of the keys of tokens: the pod is not ready while `lack` returns a cause.
    #[must_use]
    pub fn with_keys(mut self, lack: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.keys = Some(Arc::new(lack));
        self
    }

    /// Adds the gate of revocations: once the feed has caught up, the pod is not ready while `lack`
    /// returns what is missing.
    #[must_use]
    pub fn with_revocations(mut self, lack: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.revocations = Some(Arc::new(lack));
        self
    }

    /// Returns the live pods, sorted by their names, `most` of them at most.
    #[must_use]
    pub fn members(&self, most: usize) -> Vec<Member> {
        self.membership.list(most)
    }

    /// Returns whether the pod drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns the name of the pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.membership.pod()
    }

    /// Returns the membership that readiness depends on.
    #[must_use]
    pub const fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Registers the metrics of readiness and of the feed's state.
    pub fn observe(&self, meter: &Meter) {
        let health = self.clone();
        meter
            .u64_observable_gauge("relay.ready")
            .with_description("1 while the pod is ready for traffic, else 0.")
            .with_callback(move |gauge| gauge.observe(health.readiness().ready.into(), &[]))
            .build();
        let health = self.clone();
        meter
            .u64_observable_gauge("relay.degraded")
            .with_description("1 while the pod is ready although its feed is late, else 0.")
            .with_callback(move |gauge| gauge.observe(health.readiness().degraded.into(), &[]))
            .build();
        let health = self.clone();
        meter
            .u64_observable_gauge("relay.feed.state")
            .with_description("1 for the state that the feed is in, 0 for the others.")
            .with_callback(move |gauge| {
                let now = health.feed_state();
                for state in ["opening", "catching_up", "ready", "closed"] {
                    gauge.observe((state == now).into(), &[KeyValue::new("state", state)]);
                }
            })
            .build();
    }

    fn feed_state(&self) -> &'static str {
        match &*self.feed.borrow() {
            FeedState::Opening(_) => "opening",
            FeedState::Open(_) if self.membership.awaits().is_some() => "catching_up",
            FeedState::Open(_) => "ready",
            FeedState::Closed => "closed",
        }
    }

    /// Checks every gate.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let (mut reasons, late) = (Vec::new(), self.membership.late());
        match &*self.feed.borrow() {
            FeedState::Closed => reasons.push("feed: closed".to_owned()),
            _ if late.is_some() => {}
            FeedState::Open(_) => {
                reasons.extend(self.membership.awaits().map(|what| format!("feed: {what}")));
            }
            FeedState::Opening(None) => reasons.push("feed: opening".to_owned()),
            FeedState::Opening(Some(why)) => reasons.push(format!("feed: {why}")),
        }
        if let FeedState::Open(_) = &*self.feed.borrow()
            && self.membership.awaits().is_none()
        {
            reasons.extend(self.membership.cannot_publish().map(|why| format!("publisher: {why}")));
            let revocations = self.revocations.as_ref().and_then(|lack| lack());
            reasons.extend(revocations.map(|what| format!("revocations: {what}")));
        }
        reasons.extend(self.keys.as_ref().and_then(|lack| lack()).map(|why| format!("tokens: {why}")));
        if self.drain.is_cancelled() {
            reasons.push("draining".to_owned());
        }
        let lag = self.membership.lag().map(|lag| lag.as_secs_f64());
        let ready = reasons.is_empty();
        let degraded = ready && late.is_some();
        reasons.extend(late.map(|how| format!("feed: {how}")));
        Readiness { ready, degraded, reasons, membership: self.membership.size(), lag }
    }
}

/// Asks the pod at this address, from another process, whether it is live. It is meant for images
/// without a shell, so it needs no runtime. It waits one second for the connection and one for the
/// answer. The Dockerfile's health check allows three.
///
/// # Errors
/// If no answer comes in time, or its status is not 200.
pub fn ask(address: SocketAddr) -> io::Result<()> {
    let patience = Duration::from_secs(1);
    let mut pod = TcpStream::connect_timeout(&address, patience)?;
    pod.set_read_timeout(Some(patience))?;
    write!(pod, "GET /livez HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; "HTTP/1.1 200".len()];
    pod.read_exact(&mut status)?;
    match &status == b"HTTP/1.1 200" {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&status).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::metrics::{MeterProvider, noop::NoopMeterProvider};

    use super::*;
    use crate::{broker::Order, membership};

    #[test]
    fn readiness_names_each_closed_gate() {
        let (state, feed) = watch::channel(FeedState::Opening(Some("no such topic".to_owned())));
        let (drain, meter) =
            (CancellationToken::new(), MeterProvider::meter(&NoopMeterProvider::new(), "test"));
        let (interval, orphan_after) = (Duration::from_secs(10), Duration::from_secs(180));
        let membership = Membership::new(
            membership::Settings {
                pod: "pod".into(),
                interval,
                settle: Duration::from_millis(200),
                orphan_after,
                secrets: None,
            },
            &meter,
        );
        let health = Health::new(feed, membership.clone(), drain.clone());
        assert_eq!(health.readiness().reasons, ["feed: no such topic"]);
        state.send_replace(FeedState::Open("f".into()));
        membership.follow(&state.borrow(), Order::Lanes);
        assert_eq!(health.readiness().reasons, ["feed: this pod's heartbeat has not come back yet"]);
        drain.cancel();
        let readiness = health.readiness();
        assert_eq!((readiness.ready, readiness.reasons.len(), readiness.lag), (false, 2, None));
        assert_eq!(readiness.reasons[1], "draining");
    }
}
