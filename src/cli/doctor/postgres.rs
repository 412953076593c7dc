//! Checks of PostgreSQL: the server, the tables, the rights, and a trial event.
//!
//! A fault that a pod would meet has the words of the pod. It must never change anything but add
//! one heartbeat, which makes no member.

use std::{io, time::Duration};

use humantime::format_duration as span;
use tokio_util::sync::CancellationToken;

use super::{
    checks::{Checks, POD},
    clock::{self, MAX_SKEW},
    report::{Finding, Report},
};
use crate::{
    broker::{
        PublishError,
        postgres::{
            Cause, Checkup, Topic,
            checkup::{Holder, LogFacts, ServerFacts, Tables, Trial},
            schema::VERSION,
        },
    },
    membership::Heartbeat,
};

/// Extra time for which old events may stay: pods delete them about once a minute.
const TRIM_SLACK: Duration = Duration::from_secs(300);

/// Connections of a pod, its janitor's included.
const POD_CONNECTIONS: i64 = 3;

/// Checks after that of the server.
const CHECKS: [&str; 12] = [
    "schema",
    "rights",
    "primary",
    "connections",
    "durability",
    "lock",
    "publish",
    "receive",
    "notes",
    "clock",
    "retention",
    "orphans",
];

/// Runs all checks of PostgreSQL, or until `stop`.
///
/// # Errors
/// If the report cannot be written.
pub(super) async fn examine(
    report: &mut Report<'_>,
    topic: &Topic,
    checks: &Checks,
    stop: &CancellationToken,
) -> io::Result<()> {
    stop.run_until_cancelled(examine_all(report, topic, checks)).await.unwrap_or(Ok(()))
}

async fn examine_all(report: &mut Report<'_>, topic: &Topic, checks: &Checks) -> io::Result<()> {
    let reached = async {
        let checkup = Checkup::connect(topic.clone(), POD).await?;
        let server = checkup.server().await?;
        Ok::<_, Cause>((checkup, server))
    };
    let (checkup, facts) = match reached.await {
        Ok(reached) => reached,
        Err(cause) => {
            report.add("server", &wrong(cause))?;
            // Each of the other checks would find the same.
            for check in CHECKS {
                report.add(check, &Finding::skipped("PostgreSQL cannot be used"))?;
            }
            return Ok(());
        }
    };
    report.add("server", &server(&facts, topic))?;
    let tables = checkup.tables().await;
    report.add("schema", &schema(&tables, topic))?;
    let missing = match tables {
        Ok(Tables::Missing(_)) => None,
        _ => Some(checkup.missing_rights().await),
    };
    report.add("rights", &rights(missing.as_ref(), topic))?;
    report.add("primary", &primary(&facts))?;
    report.add("connections", &connections(&facts))?;
    report.add("durability", &durability(&facts, topic))?;
    let holder = match &tables {
        Ok(Tables::Missing(_)) => Ok(None),
        _ => checkup.holder().await,
    };
    report.add("lock", &lock(holder))?;
    let is_usable = matches!(missing, Some(Ok(missing)) if missing.is_empty());
    let heartbeat = Heartbeat::probe(POD.into(), POD.into()).event();
    let trial = match is_usable {
        true => Some(checkup.trial(&heartbeat).await),
        false => None,
    };
    report.add("publish", &publish(trial.as_ref()))?;
    report.add("receive", &receive(trial.as_ref()))?;
    report.add("notes", &notes(trial.as_ref()))?;
    let log = match is_usable {
        true => Some(checkup.log(&heartbeat.source).await),
        false => None,
    };
    report.add("clock", &clock(&facts, log.as_ref()))?;
    report.add("retention", &retention(log, checks.pod.window.span, &facts))?;
    report.add("orphans", &Finding::skipped("a pod leaves nothing in PostgreSQL"))
}

fn wrong(Cause { what, cure }: Cause) -> Finding {
    Finding::Wrong { what, cure }
}

/// Judges the version and the encoding.
fn server(facts: &ServerFacts, topic: &Topic) -> Finding {
    if let Some(cause) = &facts.too_old {
        return wrong(cause.clone());
    }
    if facts.encoding != "UTF8" {
        return Finding::wrong(
            format!("the database has the encoding {}", facts.encoding),
            format!("create database {} encoding 'UTF8' template template0", topic.database),
        );
    }
    let tls = if topic.server.tls { "with TLS" } else { "without TLS" };
    Finding::ok(format!("PostgreSQL {} at {}, {tls}", facts.version, topic.server))
}

/// Judges whether the tables are there, and fit this program.
fn schema(tables: &Result<Tables, Cause>, topic: &Topic) -> Finding {
    let script = format!("relay schema --postgres | psql {}", topic.database);
    match tables {
        Err(cause) => wrong(cause.clone()),
        Ok(Tables::Missing(may_make)) => {
            let cure = match may_make {
                true => format!("start a pod, whose user may make them, or {script}"),
                false => format!("run as the owner of the database: {script}"),
            };
            Finding::wrong(format!("the tables of the topic {} are missing", topic.name), cure)
        }
        Ok(Tables::Hidden) => Finding::skipped("this user may not read their version"),
        Ok(Tables::Version(VERSION)) => Finding::ok(format!("the tables have version {VERSION}")),
        Ok(Tables::Version(version)) if *version > VERSION => Finding::wrong(
            format!("the tables have version {version}, which is newer than this program's {VERSION}"),
            "run the newer release",
        ),
        Ok(Tables::Version(version)) => Finding::wrong(
            format!("the tables have version {version}, which is older than this program's {VERSION}"),
            format!("run as the owner of the database: {script}"),
        ),
    }
}

/// Judges the rights of the user.
fn rights(missing: Option<&Result<Vec<String>, Cause>>, topic: &Topic) -> Finding {
    match missing {
        None => Finding::skipped("there are no tables to have rights on"),
        Some(Err(cause)) => wrong(cause.clone()),
        Some(Ok(missing)) if missing.is_empty() => Finding::ok("all that the pods need"),
        Some(Ok(missing)) => {
            let grant = |right: &String| format!("grant {right} to {};", topic.user());
            Finding::wrong(
                format!("missing: {}", missing.join("; ")),
                format!("run as the owner: {}", missing.iter().map(grant).collect::<Vec<_>>().join(" ")),
            )
        }
    }
}

/// Judges whether the server takes writes.
fn primary(facts: &ServerFacts) -> Finding {
    match (facts.is_standby, facts.is_read_only) {
        (true, _) => Finding::wrong(
            "the server is a standby, which takes no writes",
            "set RELAY_BROKER to a name that always leads to the primary",
        ),
        (false, true) => Finding::wrong(
            "sessions of this user may only read: default_transaction_read_only is on",
            "turn it off where it is set: alter role, alter database, or the server's configuration",
        ),
        (false, false) => Finding::ok("the server takes writes"),
    }
}

/// Judges whether there is room for a pod.
fn connections(facts: &ServerFacts) -> Finding {
    let ServerFacts { connections, max_connections, .. } = facts;
    let what = format!("{connections} of {max_connections} are in use");
    match max_connections - connections < POD_CONNECTIONS {
        false => Finding::ok(what),
        true => Finding::wrong(what, "raise max_connections: each pod takes three"),
    }
}

/// Judges whether an acknowledged event outlives a crash.
fn durability(facts: &ServerFacts, topic: &Topic) -> Finding {
    if facts.synchronous_commit == "off" {
        return Finding::wrong(
            "synchronous_commit is off: a crash loses events that were acknowledged",
            format!("alter role {} set synchronous_commit = on", topic.user()),
        );
    }
    match (facts.fsync, facts.has_synchronous_standby) {
        (false, _) if topic.server.is_loopback() => {
            Finding::skipped("fsync is off, on this machine: for trials only")
        }
        (false, _) => Finding::wrong(
            "fsync is off: a power cut destroys the database",
            "set fsync = on in the server's configuration",
        ),
        (true, true) => Finding::ok("a commit waits for the disk, and for a standby"),
        (true, false) => Finding::ok(
            "a commit waits for the disk, but for no standby: a failover may lose the last moment",
        ),
    }
}

/// Judges whether publishers have to wait for a foreign transaction.
fn lock(holder: Result<Option<Holder>, Cause>) -> Finding {
    match holder {
        Err(cause) => wrong(cause),
        Ok(None) => Finding::ok("no transaction holds the topic"),
        Ok(Some(Holder { pid, user, .. })) => Finding::wrong(
            format!("a transaction of {user} holds the topic, and every publisher waits for it"),
            format!(
                "select pg_terminate_backend({pid}), and publish by relay.publish, not by the table events"
            ),
        ),
    }
}

/// Judges whether the table took the doctor's own heartbeat.
fn publish(trial: Option<&Trial>) -> Finding {
    let Some(trial) = trial else { return Finding::skipped("tables or rights are missing") };
    match &trial.published {
        Ok(()) => Finding::ok("the table took a heartbeat of the doctor's own"),
        Err(PublishError::Unavailable(error)) => match error.downcast_ref::<Cause>() {
            Some(cause) => wrong(cause.clone()),
            None => Finding::wrong(error.to_string(), "see the server's log"),
        },
        Err(error) => Finding::wrong(error.to_string(), "see the server's log and its load"),
    }
}

/// Judges whether that heartbeat can be read.
fn receive(trial: Option<&Trial>) -> Finding {
    match trial.and_then(|trial| trial.is_read.as_ref()) {
        None => Finding::skipped("no heartbeat could be published"),
        Some(Err(cause)) => wrong(cause.clone()),
        Some(Ok(true)) => Finding::ok("that heartbeat was read"),
        Some(Ok(false)) => Finding::wrong(
            "that heartbeat is not in the table",
            "name the primary in RELAY_BROKER; a trigger or a row-level policy may also hide it",
        ),
    }
}

/// Judges whether notes arrive.
fn notes(trial: Option<&Trial>) -> Finding {
    match trial {
        Some(Trial { published: Ok(()), has_note: true, .. }) => Finding::ok("its note woke the doctor"),
        Some(Trial { published: Ok(()), .. }) => Finding::wrong(
            "its note did not come: events arrive up to a second late, by polling",
            "connect directly, or use pgbouncer in session mode",
        ),
        _ => Finding::skipped("no heartbeat could be published"),
    }
}

/// Judges this machine's clock by the server's, and the server's by the topic.
fn clock(facts: &ServerFacts, log: Option<&Result<LogFacts, Cause>>) -> Finding {
    if let Some(Ok(log)) = log
        && log.ahead > MAX_SKEW
    {
        return Finding::wrong(
            format!(
                "the newest event is {} ahead of the server's clock, which has stepped back",
                span(Duration::from_secs(log.ahead.as_secs()))
            ),
            "set the server's clock by NTP; no event is lost, and times stand until the clock has caught up",
        );
    }
    let (theirs, ours) = facts.clock;
    clock::judge(theirs, ours, "the server's")
}

/// Judges whether old events are deleted, and none too early.
fn retention(log: Option<Result<LogFacts, Cause>>, window: Duration, facts: &ServerFacts) -> Finding {
    let log = match log {
        None => return Finding::skipped("tables or rights are missing"),
        Some(Err(cause)) => return wrong(cause),
        Some(Ok(log)) => log,
    };
    let seconds = |time: Duration| span(Duration::from_secs(time.as_secs()));
    if let Some(age) = log.trimmed.filter(|age| *age < window) {
        return Finding::wrong(
            format!(
                "events of {} ago were deleted, but a pod reaches back {} (RELAY_REPLAY_WINDOW)",
                seconds(age),
                span(window)
            ),
            "set the same RELAY_REPLAY_WINDOW on all pods of the topic",
        );
    }
    if !facts.autovacuum {
        return Finding::wrong(
            "autovacuum is off, so that the log grows without a bound",
            "set autovacuum = on",
        );
    }
    let oldest = log.oldest.unwrap_or_default();
    if oldest > window + log.extra_retention + TRIM_SLACK && log.pods_run {
        return Finding::wrong(
            format!("an event of {} ago is still there, although pods run", seconds(oldest)),
            "see the pods' logs for \"trim\": their user may lack the right to delete",
        );
    }
    Finding::ok(format!(
        "the oldest event is {} old, and a pod reaches back {}",
        seconds(oldest),
        span(window)
    ))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn facts() -> ServerFacts {
        ServerFacts {
            version: "15.1".into(),
            too_old: None,
            encoding: "UTF8".into(),
            is_standby: false,
            is_read_only: false,
            synchronous_commit: "on".into(),
            has_synchronous_standby: false,
            fsync: true,
            autovacuum: true,
            clock: (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH),
            connections: 97,
            max_connections: 100,
        }
    }

    fn topic() -> Topic {
        Topic::parse("db.example.com/shop").unwrap()
    }

    #[track_caller]
    fn assert_wrong(finding: &Finding, beginning: &str) {
        assert!(
            matches!(finding, Finding::Wrong { what, .. } if what.starts_with(beginning)),
            "{beginning}: {finding:?}"
        );
    }

    #[test]
    fn faults_of_server_are_named() {
        let cause = Cause { what: "PostgreSQL 13.2 is too old".into(), cure: "upgrade".into() };
        assert_wrong(&server(&ServerFacts { too_old: Some(cause), ..facts() }, &topic()), "PostgreSQL 13.2");
        let latin = ServerFacts { encoding: "LATIN1".into(), ..facts() };
        assert_wrong(&server(&latin, &topic()), "the database has the encoding LATIN1");
        assert!(matches!(server(&facts(), &topic()), Finding::Ok(_)));
        assert!(matches!(connections(&facts()), Finding::Ok(_)));
        assert_wrong(&connections(&ServerFacts { connections: 98, ..facts() }), "98 of 100");
        assert!(matches!(durability(&facts(), &topic()), Finding::Ok(_)));
        assert_wrong(&durability(&ServerFacts { fsync: false, ..facts() }, &topic()), "fsync is off");
    }

    #[test]
    fn clocks_are_compared() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let clocks = |theirs, ours| clock(&ServerFacts { clock: (at(theirs), at(ours)), ..facts() }, None);
        assert!(matches!(clocks(10, 13), Finding::Ok(_)));
        assert_wrong(&clocks(10, 14), "this clock is 4s ahead of the server's");
        assert_wrong(&clocks(14, 10), "this clock is 4s behind the server's");
    }
}
