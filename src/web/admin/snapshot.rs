//! [`Open`]: what the console shows of a pod, made once a second while a console is open.
//!
//! All consoles share one snapshot, so that a second one costs little. Without a console none is
//! made. A snapshot is bounded: it samples events and connections, and has the totals. It must
//! never show a payload.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::debug::{Names, Shown, sample};
use crate::web::state::{AppState, Snapshot};
use crate::{
    audience::Viewer,
    hub::{Answer, DeliveryRecord, Relayed},
    lock::lock,
    membership::{Member, PodStatus},
    rfc3339,
};

/// Age up to which a snapshot is given to another console.
const FRESH: Duration = Duration::from_millis(900);

/// Most consoles that are open at once. A further one is refused.
pub const MAX_OPEN: usize = 8;

/// Most events of a snapshot: the newest ones.
const MAX_EVENTS: usize = 20;

/// Most users of each event whose answers a snapshot holds.
const MAX_USERS: usize = 12;

/// Most connections of a snapshot.
const MAX_CONNECTIONS: usize = 200;

/// Most pods of a snapshot.
const MAX_PODS: usize = 100;

/// Metrics that the page shows, or draws. Of a histogram it draws percentiles.
const METRICS: [&str; 11] = [
    "relay_auth_failures_total",
    "relay_connection_ends_total",
    "relay_control_unproven_total",
    "relay_deliveries_total",
    "relay_delivery_latency_seconds_bucket",
    "relay_events_received_total",
    "relay_events_rejected_total",
    "relay_feed_orphans_deleted_total",
    "relay_gaps_total",
    "relay_publishes_total",
    "relay_refusals_total",
];

/// Guard of one open console.
pub struct Open(Arc<AppState>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.consoles.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Open {
    /// Counts a console in; `None` if [`MAX_OPEN`] are open.
    #[must_use]
    pub fn enter(app: &Arc<AppState>) -> Option<Self> {
        let open = Self(app.clone());
        // The guard counts it out again.
        let before = app.consoles.open.fetch_add(1, Ordering::Relaxed);
        (before < MAX_OPEN).then_some(open)
    }

    /// Returns whether the pod drains and has no connection left. An open stream would hold the end
    /// of its process up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.health.is_draining() && self.0.connections.count() == 0
    }

    /// Returns the present snapshot as JSON, with names or with their hashes.
    #[must_use]
    pub fn snapshot(&self, reveal: bool) -> Arc<str> {
        let mut last = lock(&self.0.consoles.last[usize::from(reveal)]);
        match &*last {
            Some(snapshot) if snapshot.at.elapsed() < FRESH => snapshot.text.clone(),
            _ => {
                let text: Arc<str> = make(&self.0, reveal).to_string().into();
                *last = Some(Snapshot { at: Instant::now(), text: text.clone() });
                text
            }
        }
    }
}

/// Returns what this pod's heartbeats report of it.
#[must_use]
pub fn status(app: &AppState) -> PodStatus {
    let readiness = app.health.readiness();
    PodStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        ready: readiness.ready,
        draining: app.health.is_draining(),
        watchers: app.hub.watchers() as u64,
        transports: app.connections.by_transport(),
        lag: readiness.lag.map(|seconds| (seconds * 1_000.0) as u64),
        window: app.hub.held_span().as_secs(),
    }
}

/// Makes a snapshot.
fn make(app: &AppState, reveal: bool) -> Value {
    let names = Names::of(app, reveal);
    let readiness = app.health.readiness();
    let (total, connections) = sample(app, MAX_CONNECTIONS);
    let mut present: Vec<&Arc<Viewer>> =
        connections.iter().filter_map(|(_, viewer)| viewer.as_ref()).collect();
    present.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    present.dedup_by(|a, b| a.user == b.user);
    json!({
        "pod": app.health.pod(),
        "at": rfc3339::write_millis(SystemTime::now()),
        "version": env!("CARGO_PKG_VERSION"),
        "own": {
            "ready": readiness.ready,
            "degraded": readiness.degraded,
            "draining": app.health.is_draining(),
            "reasons": readiness.reasons,
            "lag": readiness.lag,
        },
        "pods": pods(app),
        "sums": sums(&app.metrics.text().unwrap_or_default()),
        "events": events(app, &names, &present),
        "connections": { "total": total, "rows": rows(&connections, &names) },
    })
}

fn pods(app: &AppState) -> Value {
    let members = app.health.members(MAX_PODS);
    let row = |member: Member| {
        json!({
            "pod": member.pod,
            "connections": member.connections,
            "age": member.age.as_secs_f64(),
            "status": member.status,
        })
    };
    members.into_iter().map(row).collect()
}

/// Returns the values of [`METRICS`] by the values of their labels, from Prometheus' text.
fn sums(text: &[u8]) -> Value {
    let text = String::from_utf8_lossy(text);
    let mut sums = Map::from_iter(METRICS.map(|name| (name.to_owned(), json!({}))));
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if let (Some(sum), Ok(value)) = (sums.get_mut(name), value.parse::<f64>()) {
            let labels: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
            sum[labels.join(",")] = json!(value);
        }
    }
    Value::Object(sums)
}

fn events(app: &AppState, names: &Names<'_>, present: &[&Arc<Viewer>]) -> Value {
    let row = |(relayed, record): (Arc<Relayed>, DeliveryRecord)| {
        json!({
            "event": relayed.position.event,
            "kind": &*relayed.event.kind,
            "received": rfc3339::write_millis(record.received),
            "author": relayed.event.author.as_deref().map(|author| names.show(author)),
            "matched_watchers": record.matched,
            "users": users(&relayed, &record, present, names),
        })
    };
    app.hub.newest_events(MAX_EVENTS).into_iter().map(row).collect()
}

/// Returns which users received the event, and why those that watch now did not.
fn users(relayed: &Relayed, record: &DeliveryRecord, present: &[&Arc<Viewer>], names: &Names<'_>) -> Value {
    let mut answers: Vec<(&Arc<str>, Answer)> =
        record.told.iter().map(|(user, answer)| (user, *answer)).collect();
    answers.sort_unstable();
    let others = present.iter().filter(|viewer| !record.told.contains_key(&viewer.user));
    answers.extend(
        others
            .take(MAX_USERS)
            .map(|viewer| (&viewer.user, record.answer(relayed, &viewer.user, Some(viewer), false))),
    );
    let row = |(user, answer): (&Arc<str>, Answer)| json!({ "user": names.show(user), "answer": answer });
    answers.into_iter().take(MAX_USERS).map(row).collect()
}

fn rows(connections: &[Shown], names: &Names<'_>) -> Value {
    let row = |(entry, viewer): &Shown| {
        json!({
            "user": viewer.as_ref().map(|viewer| names.show(&viewer.user)),
            "transport": entry.transport.name(),
            "watchers": entry.send_queue.watchers(),
            "queue_bytes": entry.send_queue.bytes(),
            "age": entry.since.elapsed().as_secs_f64(),
            "cursor": entry.cursor,
        })
    };
    connections.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_each_series_by_its_labels() {
        let text = "# HELP relay_gaps_total x\nrelay_gaps_total{reason=\"feed_lost\"} 2\n\
                    relay_delivery_latency_seconds_bucket{transport=\"ws\",le=\"0.5\"} 6\n\
                    relay_publishes_total{outcome=\"a\",x=\"b\"} 3\nrelay_events_received_total 4\nother_total 5\n";
        let sums = sums(text.as_bytes());
        assert_eq!(sums["relay_gaps_total"], json!({ "feed_lost": 2.0 }));
        assert_eq!(sums["relay_publishes_total"], json!({ "a,b": 3.0 }));
        assert_eq!(sums["relay_delivery_latency_seconds_bucket"], json!({ "ws,0.5": 6.0 }));
        assert_eq!(sums["relay_events_received_total"], json!({ "": 4.0 }));
        assert_eq!((sums.get("other_total"), &sums["relay_refusals_total"]), (None, &json!({})));
    }
}
