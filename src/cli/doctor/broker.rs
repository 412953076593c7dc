//! Checks of Pub/Sub: the topic, its retention, the clock, permissions, a trial feed, the quota,
//! orphans.
//!
//! This file gathers the facts, and [`verdict`] turns them into findings. IAM tests permissions
//! where it can; the trial feed proves the others. It must never end before the trial feed is
//! deleted.

mod heard;
mod verdict;

use std::{
    collections::HashSet,
    io,
    time::{Duration, SystemTime},
};

use reqwest::{Client, header::DATE};
use tokio_util::sync::CancellationToken;

use self::{heard::Heard, verdict::Verdict};
use super::{
    checks::{Checks, POD},
    permissions::{ON_FEEDS, ON_TOPIC},
    report::{Finding, Report},
};
use crate::{
    broker::{
        PublishError,
        pubsub::{
            self, Checkup,
            admin::AdminError,
            checkup::{FoundFeed, Inventory},
        },
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

/// Checks that need Pub/Sub, after those of the topic.
const CHECKS: [&str; 7] = ["permissions", "trial feed", "publish", "receive", "clock", "quota", "orphans"];

/// Facts gathered while the trial feed existed.
struct Facts {
    /// Missing permissions; `None`: there is no IAM.
    missing: Result<Option<Vec<&'static str>>, AdminError>,
    inventory: Result<Inventory, AdminError>,
    /// Whether the topic took the doctor's own heartbeat.
    published: Result<(), PublishError>,
    heard: Heard,
}

/// Runs all checks of Pub/Sub, or until `stop`.
///
/// # Errors
/// If the report cannot be written.
pub(super) async fn examine(
    report: &mut Report<'_>,
    topic: &pubsub::Settings,
    checks: &Checks,
    stop: &CancellationToken,
) -> io::Result<()> {
    let verdict = Verdict { topic, orphan_after: checks.pod.orphan_after };
    let checkup = match Checkup::connect(topic.clone()).await {
        Ok(checkup) => checkup,
        Err(error) => return report.add("topic", &Verdict::no_identity(error)),
    };
    let topic = async {
        let retention = checkup.retention().await;
        report.add("topic", &verdict.topic(retention.as_ref()))?;
        report.add("retention", &verdict.retention(retention.as_ref()))?;
        // Each of the other checks would find the same, after a timeout.
        let is_away = retention.is_err_and(|error| error.is_away());
        let other_checks = CHECKS.into_iter().filter(|_| is_away);
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
        None => (client, topic.endpoint_url()),
    };
    let asked = SystemTime::now();
    let answer = client.build()?.get(url).send().await?;
    // The server read its clock about half-way between request and answer.
    let ours = asked + asked.elapsed().unwrap_or_default() / 2;
    let date =
        answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Ok(date.map(|date| (date, ours)))
}

/// Returns the difference of two clocks.
fn skew(&(theirs, ours): &(SystemTime, SystemTime)) -> Duration {
    theirs.duration_since(ours).unwrap_or_else(|error| error.duration())
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
    let facts = stop.run_until_cancelled(gather(checks, checkup, &trial, opened.is_ok())).await;
    let closed = match &opened {
        // Without a topic there is no feed.
        Err(AdminError::NoTopic(_)) => Ok(()),
        _ => checkup.close(&trial).await,
    };
    let Some(Facts { missing, inventory, published, heard }) = facts else { return Ok(()) };
    let inventory = inventory.map(|mut inventory| {
        inventory.feeds.retain(|feed| feed.name != trial);
        inventory
    });
    // Events carry the times of Pub/Sub's clock. Its answers show it also if no event comes back.
    let answered = date(verdict.topic).await;
    let dates = match (heard.own, answered) {
        (Some(own), Ok(Some(answered))) => Ok([own, answered].into_iter().max_by_key(skew)),
        (Some(own), _) => Ok(Some(own)),
        (None, answered) => answered,
    };
    let failures = [opened.as_ref().err(), inventory.as_ref().err()];
    report.add("permissions", &verdict.permissions(missing, failures))?;
    report.add("trial feed", &verdict.trial(opened.as_ref(), closed.as_ref()))?;
    let has_topic = !matches!(opened, Err(AdminError::NoTopic(_)));
    report.add("publish", &verdict.publish(has_topic, &published))?;
    report.add("receive", &verdict.receive(feed.is_some(), &published, &heard))?;
    report.add("clock", &verdict.clock(dates))?;
    report.add("quota", &verdict.quota(inventory.as_ref(), feed.is_some()))?;
    let live_pods = heard.is_open.then(|| heard.live_pods(checks.pod.orphan_after));
    // The ages of feeds count by the topic's clock, if that is known.
    let now = heard.own.map_or(now, |(theirs, _)| theirs);
    report.add("orphans", &verdict.orphans(inventory.as_ref(), live_pods.as_ref(), now))
}

/// Gathers the facts. If the trial feed is not open, it receives no heartbeats.
async fn gather(checks: &Checks, checkup: &Checkup, trial: &str, is_open: bool) -> Facts {
    let missing = missing_permissions(checkup, is_open.then_some(trial)).await;
    let inventory = checkup.inventory().await;
    let mut own = Heartbeat::probe(POD.into(), trial.rsplit('/').next().unwrap_or(trial).into()).event();
    if let Some(secrets) = &checks.pod.control_secrets {
        secrets.sign(&mut own, SystemTime::now());
    }
    let sent = SystemTime::now();
    let published = checkup.publish(&own).await;
    // The topic took it about half-way between call and answer.
    let sent = sent + sent.elapsed().unwrap_or_default() / 2;
    let mut heard = Heard::default();
    if is_open {
        let feeds = inventory.as_ref().map_or(&[][..], |inventory| &inventory.feeds);
        let awaits_own = published.is_ok();
        listen(checks, checkup, trial, feeds, (&own.id, sent, awaits_own), &mut heard).await;
        if awaits_own && heard.own.is_none() {
            heard.refusal = checkup.refusal(trial).await;
        }
    }
    Facts { missing, inventory, published, heard }
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

/// Receives heartbeats. It waits for the doctor's own, if the topic took it, and for every pod that
/// has a feed. It waits a little longer than a heartbeat may take, at
/// most.
async fn listen(
    checks: &Checks,
    checkup: &Checkup,
    trial: &str,
    feeds: &[FoundFeed],
    (own, sent, awaits_own): (&str, SystemTime, bool),
    heard: &mut Heard,
) {
    let after = checks.pod.orphan_after;
    // Whatever the age of their feeds, which is not known before the topic's time is.
    let awaited: HashSet<&str> = feeds.iter().map(|feed| &*feed.pod).filter(|pod| *pod != POD).collect();
    if awaited.is_empty() && !awaits_own {
        return;
    }
    let is_enough = |event: &Event| {
        heard.is_open = true;
        if *event.id == *own {
            heard.own = event.published.map(|published| (published, sent));
        }
        heard.hear(event);
        let live_pods = heard.live_pods(after);
        awaited.iter().all(|pod| live_pods.contains(*pod)) && (heard.own.is_some() || !awaits_own)
    };
    checkup.listen(trial, checks.pod.heartbeat_interval.mul_f64(1.25) + SLACK, is_enough).await;
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
