//! What is checked of Pub/Sub: the topic, its retention, the clock, permissions, a trial feed, the quota, orphans.
//!
//! Here facts are gathered; [`verdict`] says what they mean. Permissions are asked of IAM where it can be asked, and proven
//! by the trial feed where not. It must never end before the trial feed is deleted.

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

/// How long a server may take to tell the time.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How far back heartbeats are heard, if the topic retains them: three intervals of a membership of a thousand pods.
const REACH: Duration = Duration::from_secs(600);

/// A machine that is busy, and a feed that has just begun, take their time.
const SLACK: Duration = Duration::from_secs(3);

/// What was learnt while the trial feed was there.
struct Learnt {
    /// `None`: there is no IAM to ask.
    lacking: Result<Option<Vec<&'static str>>, AdminError>,
    inventory: Result<Inventory, AdminError>,
    living: HashSet<Arc<str>>,
}

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
        // Each of the others would say the same, after a while.
        let is_away = retention.is_err_and(|error| error.is_away());
        let left = ["permissions", "trial feed", "quota", "orphans"].into_iter().filter(|_| is_away);
        for check in left {
            report.add(check, &Finding::skipped("Pub/Sub cannot be asked"))?;
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

/// How far the clock of Pub/Sub is ahead of ours, or behind, if it shows one.
async fn date(topic: &pubsub::Settings) -> Result<Option<(SystemTime, SystemTime)>, reqwest::Error> {
    let client = Client::builder().timeout(CLOCK_TIMEOUT);
    let (client, url) = match &topic.emulator {
        // The client honours `HTTPS_PROXY` and its like, but no proxy reaches what runs beside us.
        Some(host) => (client.no_proxy(), format!("http://{host}/")),
        None => (client, "https://pubsub.googleapis.com/".to_owned()),
    };
    let asked = SystemTime::now();
    let answer = client.build()?.get(url).send().await?;
    // As if it had been told half-way.
    let told = asked + asked.elapsed().unwrap_or_default() / 2;
    let date =
        answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Ok(date.map(|date| (date, told)))
}

/// Opens the trial feed, learns by it, and deletes it, interrupted or not.
async fn feeds(
    report: &mut Report<'_>,
    checks: &Checks,
    verdict: &Verdict<'_>,
    checkup: &Checkup,
    stop: &CancellationToken,
) -> io::Result<()> {
    let now = SystemTime::now();
    let trial = checkup.trial();
    let opened = checkup.open(&trial, now.checked_sub(REACH).unwrap_or(now)).await;
    let feed = opened.is_ok().then_some(&*trial);
    let learnt = stop.run_until_cancelled(learn(checks, checkup, feed, now)).await;
    let closed = match &opened {
        // Without a topic there is no feed.
        Err(AdminError::NoTopic(_)) => Ok(()),
        _ => checkup.close(&trial).await,
    };
    let Some(Learnt { lacking, inventory, living }) = learnt else { return Ok(()) };
    let failures = [opened.as_ref().err(), inventory.as_ref().err()];
    report.add("permissions", &verdict.permissions(lacking, failures))?;
    report.add("trial feed", &verdict.trial(opened.as_ref(), closed.as_ref()))?;
    report.add("quota", &verdict.quota(inventory.as_ref(), feed.is_some()))?;
    report.add("orphans", &verdict.orphans(inventory.as_ref(), feed.map(|_| &living), now))
}

async fn learn(checks: &Checks, checkup: &Checkup, feed: Option<&str>, now: SystemTime) -> Learnt {
    let lacking = lacking(checkup, feed).await;
    let inventory = checkup.inventory().await;
    let living = match (&inventory, feed) {
        (Ok(inventory), Some(feed)) => listen(checks, checkup, feed, &inventory.feeds, now).await,
        _ => HashSet::new(),
    };
    Learnt { lacking, inventory, living }
}

async fn lacking(checkup: &Checkup, feed: Option<&str>) -> Result<Option<Vec<&'static str>>, AdminError> {
    let Some(mut lacking) = checkup.lacks_on_topic(&ON_TOPIC).await? else { return Ok(None) };
    if let Some(feed) = feed {
        lacking.extend(checkup.lacks(feed, &ON_FEEDS).await?.unwrap_or_default());
    }
    Ok(Some(lacking))
}

/// The pods that heartbeat. Those whose feeds are old enough to be orphans are waited for, a little longer than a heartbeat may
/// take.
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
    let mut living = HashSet::new();
    if awaited.is_empty() {
        return living;
    }
    let hear = |event: &Event| {
        // What the topic retains may be the last word of the dead: they are silent for as long as a janitor waits.
        let is_late = |heartbeat: &Heartbeat| {
            event.published.is_some_and(|at| at + after.max(heartbeat.interval() * 3) < now)
        };
        living.extend(
            Heartbeat::read(event).filter(|heartbeat| !is_late(heartbeat)).map(|heartbeat| heartbeat.pod),
        );
        awaited.iter().all(|pod| living.contains(*pod))
    };
    checkup.listen(trial, checks.pod.heartbeat_interval.mul_f64(1.25) + SLACK, hear).await;
    living
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::permissions::{CREATE, LIST};

    #[test]
    fn terraform_grants_what_is_checked_and_no_more() {
        let terraform = include_str!("../../../terraform/pubsub.tf");
        let granted: HashSet<&str> = terraform
            .split('"')
            .filter(|text| text.starts_with("pubsub.") && text.matches('.').count() == 2)
            .collect();
        let checked = ON_TOPIC.into_iter().chain(ON_FEEDS).chain([CREATE, LIST]).collect();
        assert_eq!(granted, checked);
    }
}
