//! [`Verdict`]: turns the facts about Pub/Sub into findings with cures.
//!
//! It is pure: it calls no server and reads no clock. It must never call a feed an orphan that a
//! janitor would keep.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::format_duration as span;

use super::heard::Heard;
use crate::{
    broker::{
        PublishError,
        pubsub::{
            self, ConnectError,
            admin::AdminError,
            cause::Cause,
            checkup::{FoundFeed, Inventory},
        },
    },
    cli::doctor::{
        checks::POD,
        permissions::{ATTACH, CONSUME, CREATE, LIST},
        report::{Finding, brief},
    },
};

/// Largest difference between the clocks, in whole seconds, since a `Date` has no fractions. A
/// clock that is 4 s ahead gives first cursors that promise too much
/// ([`Hub::new`](crate::hub::Hub::new)). With a clock that is 5 s behind, a token that has just
/// been issued is not valid yet.
const MAX_SKEW: Duration = Duration::from_secs(3);

/// Most subscriptions of a project that are no fault, as in the alert. The limit of a project, and
/// of a topic, is 10,000.
const MAX_SUBSCRIPTIONS: usize = 5_000;

/// Most orphans that a finding names.
const MAX_NAMES: usize = 10;

/// Judge of the facts about one topic.
pub(super) struct Verdict<'a> {
    pub(super) topic: &'a pubsub::Settings,
    pub(super) orphan_after: Duration,
}

/// Returns whether a feed is at least `after` old, so that its pod must have sent heartbeats.
pub(super) fn is_old(feed: &FoundFeed, now: SystemTime, after: Duration) -> bool {
    now.duration_since(feed.created).is_ok_and(|age| age >= after)
}

/// Returns the permission that was missing, if the call was denied.
fn denied(error: &AdminError) -> Option<&'static str> {
    let AdminError::Denied { call, .. } = error else { return None };
    Some(match *call {
        "create a feed" => CREATE,
        "seek a feed" => CONSUME,
        _ => LIST,
    })
}

impl Verdict<'_> {
    /// Judges that there are no clients, for lack of credentials.
    pub(super) fn no_identity(ConnectError(cause): ConnectError) -> Finding {
        Finding::wrong(cause.what, cause.cure)
    }

    /// Judges whether the topic exists.
    pub(super) fn topic(&self, retention: Result<&Duration, &AdminError>) -> Finding {
        match retention {
            Ok(_) => Finding::ok(format!("{} exists in {}", self.topic.topic, self.topic.project)),
            Err(error) => self.failure(error),
        }
    }

    /// Judges the topic's retention, which must be at least what a new feed reaches back.
    pub(super) fn retention(&self, retention: Result<&Duration, &AdminError>) -> Finding {
        let pubsub::Settings { project, topic, emulator, replay_window: window, .. } = self.topic;
        let Ok(&retention) = retention else { return Finding::skipped("the topic cannot be read") };
        if retention >= *window {
            return Finding::ok(format!("{}, and a pod reaches back {}", span(retention), span(*window)));
        }
        let what = match retention.is_zero() {
            true => "the topic retains nothing".to_owned(),
            false => format!("the topic retains {}", span(retention)),
        };
        let needed = window.max(&pubsub::LIMITS.least_retention).as_secs_f64().ceil();
        let cure = match emulator {
            Some(host) => format!(
                "an emulator cannot change it: curl -X DELETE \
                 http://{host}/v1/projects/{project}/topics/{topic}, then the next pod creates it again"
            ),
            None => format!(
                "gcloud pubsub topics update {topic} --project={project} --message-retention-duration={needed}s, and \
                 message_retention_seconds in terraform"
            ),
        };
        Finding::wrong(
            format!("{what}, but a pod reaches back {} (RELAY_REPLAY_WINDOW)", span(*window)),
            cure,
        )
    }

    /// Judges this machine's clock by Pub/Sub's. `dates` are the two times of one moment, Pub/Sub's
    /// first.
    pub(super) fn clock(&self, dates: Result<Option<(SystemTime, SystemTime)>, reqwest::Error>) -> Finding {
        let (theirs, ours) = match dates {
            Ok(Some(dates)) => dates,
            Ok(None) => return Finding::skipped("no heartbeat came back, and the emulator sends no time"),
            Err(error) => return Finding::wrong(brief(&error), self.reach()),
        };
        let (skew, word) = match ours.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let skew = Duration::from_secs(skew.as_secs());
        match skew > MAX_SKEW {
            false => Finding::ok(format!("within {} of Pub/Sub's", span(MAX_SKEW))),
            true => Finding::wrong(
                format!("this clock is {} {word} Pub/Sub's", span(skew)),
                "set it by NTP (timedatectl set-ntp true); on GKE, drain and replace the node",
            ),
        }
    }

    /// Judges the permissions. `failures` are those of the calls that IAM cannot test beforehand.
    pub(super) fn permissions(
        &self,
        missing: Result<Option<Vec<&'static str>>, AdminError>,
        failures: [Option<&AdminError>; 2],
    ) -> Finding {
        let (mut missing, is_tested) = match missing {
            Ok(Some(missing)) => (missing, true),
            Ok(None) => (Vec::new(), false),
            Err(error) => return self.failure(&error),
        };
        if matches!(failures[0], Some(AdminError::NoTopic(_))) {
            return Finding::skipped("there is no topic to have permissions on");
        }
        for permission in failures.into_iter().flatten().filter_map(denied) {
            // Without the permission to attach a feed, its creation is denied as well.
            if permission != CREATE || !missing.contains(&ATTACH) {
                missing.push(permission);
            }
        }
        match (missing.is_empty(), is_tested) {
            (true, true) => Finding::ok("all that the pods need"),
            (true, false) => Finding::skipped("the emulator has no IAM"),
            (false, _) => Finding::wrong(format!("missing: {}", missing.join(", ")), self.grant(&missing)),
        }
    }

    /// Judges the creation and the deletion of the trial feed.
    pub(super) fn trial(
        &self,
        opened: Result<&(), &AdminError>,
        closed: Result<&(), &AdminError>,
    ) -> Finding {
        match (opened, closed) {
            (Ok(()), Ok(())) => Finding::ok("created, sought, deleted"),
            (Err(AdminError::NoTopic(_)), _) => Finding::skipped("there is no topic"),
            (Err(error), _) | (Ok(()), Err(error)) => self.failure(error),
        }
    }

    /// Judges whether the topic took the doctor's own heartbeat.
    pub(super) fn publish(&self, has_topic: bool, published: &Result<(), PublishError>) -> Finding {
        match published {
            _ if !has_topic => Finding::skipped("there is no topic"),
            Ok(()) => Finding::ok("the topic took a heartbeat of the doctor's own"),
            Err(PublishError::Unavailable(error)) => match error.downcast_ref::<Cause>() {
                Some(Cause { what, cure, .. }) => Finding::wrong(what, cure),
                None => Finding::wrong(error.to_string(), self.reach()),
            },
            Err(error) => Finding::wrong(error.to_string(), self.reach()),
        }
    }

    /// Judges whether the doctor's own heartbeat came back through the trial feed.
    pub(super) fn receive(
        &self,
        has_trial: bool,
        published: &Result<(), PublishError>,
        heard: &Heard,
    ) -> Finding {
        match (&heard.refusal, heard.own) {
            _ if !has_trial => Finding::skipped("there is no trial feed"),
            (Some(Cause { what, cure, .. }), _) => Finding::wrong(what, cure),
            (None, Some(_)) => Finding::ok("that heartbeat came back through the trial feed"),
            (None, None) if published.is_ok() => Finding::wrong(
                "the topic took a heartbeat, and it did not come through the trial feed",
                self.reach(),
            ),
            (None, None) if heard.is_open => {
                Finding::ok("the heartbeats of pods came through the trial feed")
            }
            (None, None) => Finding::skipped("no heartbeat could be published"),
        }
    }

    /// Judges the number of the project's subscriptions, without the trial feed.
    pub(super) fn quota(&self, inventory: Result<&Inventory, &AdminError>, has_trial: bool) -> Finding {
        let count = match inventory {
            Ok(inventory) => inventory.subscriptions.saturating_sub(usize::from(has_trial)),
            Err(error) => return self.failure(error),
        };
        let project = &self.topic.project;
        let what = format!("{count} of the 10,000 subscriptions that a project may have");
        match count > MAX_SUBSCRIPTIONS {
            false => Finding::ok(what),
            true => Finding::wrong(
                what,
                format!("delete unused subscriptions: gcloud pubsub subscriptions list --project={project}"),
            ),
        }
    }

    /// Judges the feeds without a pod. `live_pods` is `None` if heartbeats could not be received.
    pub(super) fn orphans(
        &self,
        inventory: Result<&Inventory, &AdminError>,
        live_pods: Option<&HashSet<Arc<str>>>,
        now: SystemTime,
    ) -> Finding {
        let Ok(Inventory { feeds, .. }) = inventory else {
            return Finding::skipped("the feeds cannot be listed");
        };
        let Some(live_pods) = live_pods else {
            return Finding::skipped("no heartbeat came through a trial feed, so that no pod can be heard");
        };
        let is_orphan =
            |feed: &&FoundFeed| is_old(feed, now, self.orphan_after) && !live_pods.contains(&*feed.pod);
        let orphans: Vec<&FoundFeed> = feeds.iter().filter(is_orphan).collect();
        if orphans.is_empty() {
            let count = feeds.iter().filter(|feed| feed.pod != POD).count();
            return Finding::ok(format!("none among {count} feeds"));
        }
        let names =
            orphans.iter().take(MAX_NAMES).map(|feed| feed.name.rsplit('/').next().unwrap_or(&feed.name));
        let names = names.collect::<Vec<_>>().join(" ");
        let more = if orphans.len() > MAX_NAMES { ", here the first ones" } else { "" };
        Finding::wrong(
            format!(
                "{} left by pods that have not sent a heartbeat for {}",
                orphans.len(),
                span(self.orphan_after)
            ),
            format!(
                "any ready pod deletes 20 a minute, and logs what it may not delete; or by hand{more}: {}",
                self.delete(&names)
            ),
        )
    }

    /// Returns the command that deletes these feeds.
    fn delete(&self, names: &str) -> String {
        let project = &self.topic.project;
        match &self.topic.emulator {
            None => format!("gcloud pubsub subscriptions delete {names} --project={project}"),
            Some(host) => format!(
                "for feed in {names}; do curl -X DELETE http://{host}/v1/projects/{project}/subscriptions/$feed; done"
            ),
        }
    }

    /// Judges a call that failed.
    fn failure(&self, error: &AdminError) -> Finding {
        match error {
            AdminError::NoTopic(name) => Finding::wrong(format!("there is no {name}"), self.create()),
            AdminError::Denied { call, .. } => Finding::wrong(
                format!("permission denied to {call}"),
                self.grant(&["topics", "subscriptions"]),
            ),
            AdminError::Failed(Cause { what, cure, .. }) => Finding::wrong(what, cure),
        }
    }

    /// Returns the commands that create the topic.
    fn create(&self) -> String {
        let pubsub::Settings { project, topic, emulator, replay_window, .. } = self.topic;
        let retention = replay_window.max(&pubsub::LIMITS.least_retention).as_secs_f64().ceil();
        match emulator {
            Some(host) => format!(
                "start a pod, which creates it on an emulator, or \
                 curl -X PUT http://{host}/v1/projects/{project}/topics/{topic} \
                 -H 'content-type: application/json' -d '{{\"messageRetentionDuration\":\"{retention}s\"}}'"
            ),
            None => format!(
                "terraform apply, or gcloud pubsub topics create {topic} --project={project} \
                 --message-retention-duration={retention}s, or correct RELAY_BROKER"
            ),
        }
    }

    /// Returns the commands that grant Terraform's roles with these permissions.
    fn grant(&self, permissions: &[&str]) -> String {
        let pubsub::Settings { project, topic, .. } = self.topic;
        let includes = |kind: &str| permissions.iter().any(|permission| permission.contains(kind));
        let on_topic = includes("topics").then(|| {
            format!(
                "gcloud pubsub topics add-iam-policy-binding {topic} --project={project} --member=PRINCIPAL \
                 --role=projects/{project}/roles/pubsubRelayTopic"
            )
        });
        let on_project = includes("subscriptions").then(|| {
            format!(
                "gcloud projects add-iam-policy-binding {project} --member=PRINCIPAL \
                 --role=projects/{project}/roles/pubsubRelayFeeds"
            )
        });
        let commands: Vec<_> = on_topic.into_iter().chain(on_project).collect();
        format!("terraform apply, or as an owner of the project: {}", commands.join(" && "))
    }

    /// Returns the cure if Pub/Sub does not answer or does not accept the credentials.
    fn reach(&self) -> String {
        match &self.topic.emulator {
            Some(host) => format!("start the emulator at {host}, or correct PUBSUB_EMULATOR_HOST"),
            None => "allow traffic of the pods to pubsub.googleapis.com:443 and the metadata server \
                     (networkpolicy.yaml), and give them an identity: Workload Identity, or gcloud auth \
                     application-default login"
                .to_owned(),
        }
    }
}
