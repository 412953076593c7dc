//! Checks of Pub/Sub: the topic, its retention, the clock, permissions, a trial feed, the quota,
//! orphans.
//!
//! This file gathers the facts, and [`verdict`] turns them into findings. IAM tests permissions
//! where it can; the trial feed proves the others. It must never end before the trial feed is
//! deleted.

mod verdict;

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{Client, header::DATE};
use tokio_util::sync::CancellationToken;

use self::verdict::Verdict;
use super::{
    checks::Checks,
    permissions::{ON_FEEDS, ON_TOPIC},
    report::{Finding, Report},
};
use crate::{
    broker::pubsub::{
        self, Checkup,
        admin::AdminError,
        checkup::{FoundFeed, Inventory},
    },
    event::Event,
    membership::Heartbeat,
};

/// Longest time for an answer with the server's clock. At the limit the check `clock` is wrong.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How far back heartbeats are received, if the topic retains them: three intervals of a membership
/// of a thousand pods.
const REACH: Duration = Duration::from_secs(600);

/// Extra time to wait for heartbeats, for a busy machine and a feed that has just begun.
const SLACK: Duration = Duration::from_secs(3);

/// Facts gathered while the trial feed existed.
struct Facts {
    /// Missing permissions; `None`: there is no IAM.
    missing: Result<Option<Vec<&'static str>>, AdminError>,
    inventory: Result<Inventory, AdminError>,
    /// Pods that send heartbeats.
    live_pods: HashSet<Arc<str>>,
}

/// Runs all checks of Pub/Sub, or until `stop`.
///
/// # Errors
/// If the report cannot be written.
pub(super) async fn examine(
    report: &mut Report<'_>,
    checks: &Checks,
    stop: &CancellationToken,
) -> io::Result<()> {
    let Some(topic) = &checks.topic else {
        return report.add("topic", &verdict::memory(checks.in_kubernetes));
    };
    let verdict = Verdict { topic, orphan_after: checks.pod.orphan_after };
    let checkup = match Checkup::connect(topic.clone()).await {
        Ok(checkup) => checkup,
        Err(error) => return report.add("topic", &verdict.no_identity(&error)),
    };
    let topic = async {
        let retention = checkup.retention().await;
        report.add("topic", &verdict.topic(retention.as_ref()))?;
        report.add("retention", &verdict.retention(retention.as_ref()))?;
        report.add("clock", &verdict.clock(date(topic).await))?;
        // Each of the other checks would find the same, after a timeout.
        let is_away = retention.is_err_and(|error| error.is_away());
        let other_checks = ["permissions", "trial feed", "quota", "orphans"].into_iter().filter(|_| is_away);
        for check in other_checks {
            report.add(check, &Finding::skipped("Pub/Sub cannot be reached"))?;
        }
        Ok::<_, io::Error>(is_away)
    };
    match stop.run_until_cancelled(topic).await {
        Some(Ok(false)) => {}
        Some(Err(error)) => return Err(error),
        Some(Ok(true)) | None => return Ok(()),
    }
    feeds(report, checks, &verdict, &checkup, stop).await
}

/// Returns the time on Pub/Sub's clock, and the time on this machine's clock at that moment; `None`
/// if the answer has no date.
async fn date(topic: &pubsub::Settings) -> Result<Option<(SystemTime, SystemTime)>, reqwest::Error> {
    let client = Client::builder().timeout(CLOCK_TIMEOUT);
    let (client, url) = match &topic.emulator {
        // The client honours `HTTPS_PROXY`, but no proxy reaches an emulator on this machine.
        Some(host) => (client.no_proxy(), format!("http://{host}/")),
        None => (client, "https://pubsub.googleapis.com/".to_owned()),
    };
    let asked = SystemTime::now();
    let answer = client.build()?.get(url).send().await?;
    // The server read its clock about half-way between request and answer.
    let ours = asked + asked.elapsed().unwrap_or_default() / 2;
    let date =
        answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Ok(date.map(|date| (date, ours)))
}

/// Creates the trial feed, gathers facts with it, and deletes it, even if interrupted.
async fn feeds(
    report: &mut Report<'_>,
    checks: &Checks,
    verdict: &Verdict<'_>,
    checkup: &Checkup,
    stop: &CancellationToken,
) -> io::Result<()> {
    let now = SystemTime::now();
    let trial = checkup.trial();
    let opened = checkup.create_trial(&trial, now.checked_sub(REACH).unwrap_or(now)).await;
    let feed = opened.is_ok().then_some(&*trial);
    let facts = stop.run_until_cancelled(gather(checks, checkup, feed, now)).await;
    let closed = match &opened {
        // Without a topic there is no feed.
        Err(AdminError::NoTopic(_)) => Ok(()),
        _ => checkup.close(&trial).await,
    };
    let Some(Facts { missing, inventory, live_pods }) = facts else { return Ok(()) };
    let failures = [opened.as_ref().err(), inventory.as_ref().err()];
    report.add("permissions", &verdict.permissions(missing, failures))?;
    report.add("trial feed", &verdict.trial(opened.as_ref(), closed.as_ref()))?;
    report.add("quota", &verdict.quota(inventory.as_ref(), feed.is_some()))?;
    report.add("orphans", &verdict.orphans(inventory.as_ref(), feed.map(|_| &live_pods), now))
}

/// Gathers the facts. Without a trial `feed` it receives no heartbeats.
async fn gather(checks: &Checks, checkup: &Checkup, feed: Option<&str>, now: SystemTime) -> Facts {
    let missing = missing_permissions(checkup, feed).await;
    let inventory = checkup.inventory().await;
    let live_pods = match (&inventory, feed) {
        (Ok(inventory), Some(feed)) => listen(checks, checkup, feed, &inventory.feeds, now).await,
        _ => HashSet::new(),
    };
    Facts { missing, inventory, live_pods }
}

/// Returns the permissions that are missing on the topic and on the trial feed; `None` if there is
/// no IAM.
async fn missing_permissions(
    checkup: &Checkup,
    feed: Option<&str>,
) -> Result<Option<Vec<&'static str>>, AdminError> {
    let Some(mut missing) = checkup.lacks_on_topic(&ON_TOPIC).await? else { return Ok(None) };
    if let Some(feed) = feed {
        missing.extend(checkup.lacks(feed, &ON_FEEDS).await?.unwrap_or_default());
    }
    Ok(Some(missing))
}

/// Returns the pods that send heartbeats. It waits for every pod that has a feed old enough for an
/// orphan. It waits a little longer than a heartbeat may take, at most.
async fn listen(
    checks: &Checks,
    checkup: &Checkup,
    trial: &str,
    feeds: &[FoundFeed],
    now: SystemTime,
) -> HashSet<Arc<str>> {
    let after = checks.pod.orphan_after;
    let old = feeds.iter().filter(|feed| verdict::is_old(feed, now, after));
    let awaited: HashSet<&str> = old.map(|feed| &*feed.pod).collect();
    let mut live_pods = HashSet::new();
    if awaited.is_empty() {
        return live_pods;
    }
    let is_enough = |event: &Event| {
        // A retained heartbeat may be the last one of a dead pod. A janitor waits as long as this.
        let is_stale = |heartbeat: &Heartbeat| {
            event.published.is_some_and(|at| at + after.max(heartbeat.interval() * 3) < now)
        };
        live_pods.extend(
            Heartbeat::read(event).filter(|heartbeat| !is_stale(heartbeat)).map(|heartbeat| heartbeat.pod),
        );
        awaited.iter().all(|pod| live_pods.contains(*pod))
    };
    checkup.listen(trial, checks.pod.heartbeat_interval.mul_f64(1.25) + SLACK, is_enough).await;
    live_pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::permissions::{CREATE, LIST};

    #[test]
    fn terraform_grants_exactly_checked_permissions() {
        let terraform = include_str!("../../../terraform/pubsub.tf");
        let granted: HashSet<&str> = terraform
            .split('"')
            .filter(|text| text.starts_with("pubsub.") && text.matches('.').count() == 2)
            .collect();
        let checked = ON_TOPIC.into_iter().chain(ON_FEEDS).chain([CREATE, LIST]).collect();
        assert_eq!(granted, checked);
    }
}
