//! What the facts about Pub/Sub mean, and what to do.
//!
//! Pure. It must never call a feed an orphan that a janitor would not.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::format_duration as span;

use crate::{
    broker::pubsub::{
        self, ConnectError,
        admin::AdminError,
        checkup::{FoundFeed, Inventory},
    },
    cli::doctor::{
        checks::POD,
        permissions::{ATTACH, CONSUME, CREATE, LIST},
        report::{Finding, brief},
    },
};

/// How far clocks may differ in whole seconds, which is what a `Date` has: 4 s ahead the first cursors would promise too
/// much ([`Hub::new`](crate::hub::Hub::new)), and 5 s behind a token that has just been issued would not be valid yet.
const MAX_SKEW: Duration = Duration::from_secs(3);

/// Subscriptions that are too near to 10,000, the most that a project, and a topic, may have: as the alert has it.
const MANY: usize = 5_000;

/// Orphans that are named.
const NAMED: usize = 10;

/// Judges facts about one topic.
pub(super) struct Verdict<'a> {
    pub(super) topic: &'a pubsub::Settings,
    pub(super) orphan_after: Duration,
}

/// Without a topic there is nothing else to check.
pub(super) fn memory(in_kubernetes: bool) -> Finding {
    let what = "RELAY_BROKER is memory:, which no other pod hears";
    match in_kubernetes {
        true => Finding::wrong(what, "RELAY_BROKER=pubsub://PROJECT/TOPIC"),
        false => Finding::skipped(format!("{what}: nothing of Pub/Sub is checked")),
    }
}

/// Whether a feed is so old that its pod must have sent heartbeats.
pub(super) fn is_old(feed: &FoundFeed, now: SystemTime, after: Duration) -> bool {
    now.duration_since(feed.created).is_ok_and(|age| age >= after)
}

/// What was missing, if the call was denied.
fn denied(error: &AdminError) -> Option<&'static str> {
    let AdminError::Denied { call, .. } = error else { return None };
    Some(match *call {
        "create a feed" => CREATE,
        "seek a feed" => CONSUME,
        _ => LIST,
    })
}

impl Verdict<'_> {
    pub(super) fn no_identity(&self, error: &ConnectError) -> Finding {
        Finding::wrong(brief(error), self.reach())
    }

    pub(super) fn topic(&self, retention: Result<&Duration, &AdminError>) -> Finding {
        match retention {
            Ok(_) => Finding::ok(format!("{} exists in {}", self.topic.topic, self.topic.project)),
            Err(error) => self.failure(error),
        }
    }

    /// A topic must retain what a new feed reaches back to.
    pub(super) fn retention(&self, retention: Result<&Duration, &AdminError>) -> Finding {
        let pubsub::Settings { project, topic, emulator, replay_window: window, .. } = self.topic;
        let Ok(&retention) = retention else { return Finding::skipped("the topic cannot be seen") };
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
                "an emulator cannot change it: curl -X DELETE http://{host}/v1/projects/{project}/topics/{topic}, and \
                 the next pod makes it anew"
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

    /// The clock of Pub/Sub beside ours.
    pub(super) fn clock(&self, told: Result<Option<(SystemTime, SystemTime)>, reqwest::Error>) -> Finding {
        let (theirs, ours) = match told {
            Ok(Some(told)) => told,
            Ok(None) => return Finding::skipped("the emulator tells no time"),
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

    /// `failures`: of the calls whose permissions IAM was not asked about.
    pub(super) fn permissions(
        &self,
        lacking: Result<Option<Vec<&'static str>>, AdminError>,
        failures: [Option<&AdminError>; 2],
    ) -> Finding {
        let (mut lacking, is_asked) = match lacking {
            Ok(Some(lacking)) => (lacking, true),
            Ok(None) => (Vec::new(), false),
            Err(error) => return self.failure(&error),
        };
        if matches!(failures[0], Some(AdminError::NoTopic(_))) {
            return Finding::skipped("there is no topic to have permissions on");
        }
        for permission in failures.into_iter().flatten().filter_map(denied) {
            // A feed that may not be attached to the topic is denied just like one that may not be made.
            if permission != CREATE || !lacking.contains(&ATTACH) {
                lacking.push(permission);
            }
        }
        match (lacking.is_empty(), is_asked) {
            (true, true) => Finding::ok("all that the pods need"),
            (true, false) => Finding::skipped("the emulator has no IAM"),
            (false, _) => Finding::wrong(format!("missing: {}", lacking.join(", ")), self.grant(&lacking)),
        }
    }

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

    /// Subscriptions of the project but our trial feed.
    pub(super) fn quota(&self, inventory: Result<&Inventory, &AdminError>, has_trial: bool) -> Finding {
        let count = match inventory {
            Ok(inventory) => inventory.subscriptions.saturating_sub(usize::from(has_trial)),
            Err(error) => return self.failure(error),
        };
        let project = &self.topic.project;
        let what = format!("{count} of the 10,000 subscriptions that a project may have");
        match count > MANY {
            false => Finding::ok(what),
            true => Finding::wrong(
                what,
                format!("delete what nobody uses: gcloud pubsub subscriptions list --project={project}"),
            ),
        }
    }

    /// Feeds without a pod; `living` is `None` if nobody could listen.
    pub(super) fn orphans(
        &self,
        inventory: Result<&Inventory, &AdminError>,
        living: Option<&HashSet<Arc<str>>>,
        now: SystemTime,
    ) -> Finding {
        let Ok(Inventory { feeds, .. }) = inventory else {
            return Finding::skipped("the feeds cannot be listed");
        };
        let Some(living) = living else {
            return Finding::skipped("no trial feed, through which the living would be heard");
        };
        let is_orphan =
            |feed: &&FoundFeed| is_old(feed, now, self.orphan_after) && !living.contains(&*feed.pod);
        let orphans: Vec<&FoundFeed> = feeds.iter().filter(is_orphan).collect();
        if orphans.is_empty() {
            let count = feeds.iter().filter(|feed| feed.pod != POD).count();
            return Finding::ok(format!("none among {count} feeds"));
        }
        let names = orphans.iter().take(NAMED).map(|feed| feed.name.rsplit('/').next().unwrap_or(&feed.name));
        let names = names.collect::<Vec<_>>().join(" ");
        let more = if orphans.len() > NAMED { ", the first of them here" } else { "" };
        Finding::wrong(
            format!(
                "{} left by pods that have not sent a heartbeat for {}",
                orphans.len(),
                span(self.orphan_after)
            ),
            format!(
                "any ready pod deletes 20 a minute, and logs what it may not; or by hand{more}: {}",
                self.delete(&names)
            ),
        )
    }

    fn delete(&self, names: &str) -> String {
        let project = &self.topic.project;
        match &self.topic.emulator {
            None => format!("gcloud pubsub subscriptions delete {names} --project={project}"),
            Some(host) => format!(
                "for feed in {names}; do curl -X DELETE http://{host}/v1/projects/{project}/subscriptions/$feed; done"
            ),
        }
    }

    /// A call that did not succeed.
    fn failure(&self, error: &AdminError) -> Finding {
        match error {
            AdminError::NoTopic(name) => Finding::wrong(format!("there is no {name}"), self.create()),
            AdminError::Denied { call, .. } => Finding::wrong(
                format!("permission denied to {call}"),
                self.grant(&["topics", "subscriptions"]),
            ),
            error if error.is_anonymous() => {
                Finding::wrong("there are no credentials that Google takes", self.reach())
            }
            AdminError::Silent { .. } | AdminError::Failed { .. } => {
                Finding::wrong(brief(error), self.reach())
            }
        }
    }

    fn create(&self) -> String {
        let pubsub::Settings { project, topic, emulator, replay_window, .. } = self.topic;
        let retention = replay_window.max(&pubsub::LIMITS.least_retention).as_secs_f64().ceil();
        match emulator {
            Some(host) => format!(
                "start a pod, which makes it on an emulator, or curl -X PUT http://{host}/v1/projects/{project}/topics/{topic} \
                 -H 'content-type: application/json' -d '{{\"messageRetentionDuration\":\"{retention}s\"}}'"
            ),
            None => format!(
                "terraform apply, or gcloud pubsub topics create {topic} --project={project} \
                 --message-retention-duration={retention}s, or correct RELAY_BROKER"
            ),
        }
    }

    /// The roles of terraform that hold these permissions.
    fn grant(&self, permissions: &[&str]) -> String {
        let pubsub::Settings { project, topic, .. } = self.topic;
        let lacks = |kind: &str| permissions.iter().any(|permission| permission.contains(kind));
        let on_topic = lacks("topics").then(|| {
            format!(
                "gcloud pubsub topics add-iam-policy-binding {topic} --project={project} --member=PRINCIPAL \
                 --role=projects/{project}/roles/pubsubRelayTopic"
            )
        });
        let on_project = lacks("subscriptions").then(|| {
            format!(
                "gcloud projects add-iam-policy-binding {project} --member=PRINCIPAL \
                 --role=projects/{project}/roles/pubsubRelayFeeds"
            )
        });
        let commands: Vec<_> = on_topic.into_iter().chain(on_project).collect();
        format!("terraform apply, or as whoever owns the project: {}", commands.join(" && "))
    }

    /// Nobody answers, or nobody knows us.
    fn reach(&self) -> String {
        match &self.topic.emulator {
            Some(host) => format!("start the emulator at {host}, or correct PUBSUB_EMULATOR_HOST"),
            None => "let the pods out to pubsub.googleapis.com:443 and the metadata server (networkpolicy.yaml), and give \
                     them an identity: Workload Identity, or gcloud auth application-default login"
                .to_owned(),
        }
    }
}
