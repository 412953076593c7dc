//! Checks of RabbitMQ: the stream, the routing, a trial event and its stamp.
//!
//! A fault that a pod would meet has the words of the pod. It must never change anything but add
//! one heartbeat, which makes no member.

use std::{io, time::Duration};

use humantime::format_duration as span;
use tokio_util::sync::CancellationToken;

use super::{
    checks::{Checks, POD},
    clock,
    report::{Finding, Report},
};
use crate::{
    broker::{
        PublishError,
        rabbitmq::{
            Cause, Checkup, Topic,
            checkup::{Retention, Stamp, Trial},
        },
    },
    membership::Heartbeat,
};

/// Checks after that of the server.
const CHECKS: [&str; 7] = ["stream", "publish", "receive", "routing", "stamp", "clock", "replicas"];

/// Runs all checks of RabbitMQ, or until `stop`.
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
    let checkup = match Checkup::connect(topic.clone(), POD).await {
        Ok(checkup) => checkup,
        Err(cause) => {
            report.add("server", &wrong(cause))?;
            // Each of the other checks would find the same.
            for check in CHECKS {
                report.add(check, &Finding::skipped("RabbitMQ cannot be used"))?;
            }
            return Ok(());
        }
    };
    let tls = if topic.server.tls { "with TLS" } else { "without TLS" };
    report.add("server", &Finding::ok(format!("RabbitMQ at {}, {tls}", topic.server)))?;
    let window = checks.pod.window.span;
    let stream = checkup.stream(window).await;
    report.add("stream", &retention(&stream, topic, window))?;
    let heartbeat = || Heartbeat::probe(POD.into(), POD.into()).event();
    let trial = match stream {
        Ok(Some(_)) => Some(checkup.trial(&heartbeat()).await),
        _ => None,
    };
    report.add("publish", &publish(trial.as_ref()))?;
    let received = trial.and_then(|trial| trial.received);
    report.add("receive", &receive(received.as_ref()))?;
    report.add("routing", &routing(checkup.is_returned(&heartbeat()).await))?;
    let stamped = received.and_then(Result::ok);
    report.add("stamp", &stamp(stamped))?;
    report.add("clock", &clock(stamped))?;
    let command = format!("rabbitmq-streams stream_status --vhost {} {}", topic.vhost, topic.stream);
    report.add("replicas", &Finding::skipped(format!("AMQP does not show them: see {command}")))
}

fn wrong(Cause { what, cure, .. }: Cause) -> Finding {
    Finding::Wrong { what, cure }
}

/// Judges whether the stream is there, and retains the window.
fn retention(stream: &Result<Option<Retention>, Cause>, topic: &Topic, window: Duration) -> Finding {
    match stream {
        Err(cause) => wrong(cause.clone()),
        Ok(None) => Finding::wrong(
            format!("there is no stream {} in {}", topic.stream, topic.vhost),
            "start a pod, whose user may create it, or see docs/RABBITMQ.md",
        ),
        Ok(Some(Retention::Window)) => Finding::ok(format!("{} retains {}", topic.stream, span(window))),
        Ok(Some(Retention::Unknown)) => Finding::skipped(format!(
            "the user {} may not ask how long {} retains events",
            topic.server.login.user.as_deref().unwrap_or("guest"),
            topic.stream
        )),
    }
}

/// Judges whether the stream took the doctor's own heartbeat.
fn publish(trial: Option<&Trial>) -> Finding {
    let Some(trial) = trial else { return Finding::skipped("there is no stream to publish to") };
    match &trial.published {
        Ok(()) => Finding::ok("the stream took a heartbeat of the doctor's own"),
        Err(PublishError::Unavailable(error)) => match error.downcast_ref::<Cause>() {
            Some(cause) => wrong(cause.clone()),
            None => Finding::wrong(error.to_string(), "see the broker's log"),
        },
        Err(error) => Finding::wrong(error.to_string(), "see the broker's log and its load"),
    }
}

/// Judges whether that heartbeat came back.
fn receive(received: Option<&Result<Stamp, Cause>>) -> Finding {
    match received {
        None => Finding::skipped("no heartbeat could be published"),
        Some(Err(cause)) => wrong(cause.clone()),
        Some(Ok(_)) => Finding::ok("that heartbeat came back"),
    }
}

/// Judges whether a message that no queue takes is noticed.
fn routing(is_returned: bool) -> Finding {
    match is_returned {
        true => Finding::ok("a message that no queue takes is returned"),
        false => Finding::wrong(
            "the broker acknowledged a message that no queue takes",
            "look for a proxy, a policy or an alternate exchange that takes it",
        ),
    }
}

/// Judges whether the broker stamps.
fn stamp(stamp: Option<Stamp>) -> Finding {
    match stamp {
        None => Finding::skipped("no heartbeat came back"),
        Some(Stamp { theirs: Some(_), .. }) => Finding::ok("the broker stamps each message"),
        Some(Stamp { theirs: None, .. }) => Finding::wrong(
            "the broker does not stamp, so that clients resume by publishers' clocks",
            "from RabbitMQ 3.12 on: message_interceptors.incoming.set_header_timestamp.overwrite = true in \
             rabbitmq.conf",
        ),
    }
}

/// Judges this machine's clock by the broker's.
fn clock(stamp: Option<Stamp>) -> Finding {
    let Some(Stamp { theirs: Some(theirs), ours }) = stamp else {
        return Finding::skipped("the broker's time is not known without its stamp");
    };
    clock::judge(theirs, ours, "the broker's")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn stamp_shows_difference_of_clocks() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let stamped = |theirs, ours| Some(Stamp { theirs: Some(at(theirs)), ours: at(ours) });
        assert!(matches!(clock(stamped(10, 13)), Finding::Ok(_)));
        for (theirs, ours, words) in [(10, 14, "4s ahead of"), (14, 10, "4s behind")] {
            let Finding::Wrong { what, .. } = clock(stamped(theirs, ours)) else { panic!("{words}") };
            assert!(what.contains(words), "{what}");
        }
        let unstamped = Some(Stamp { theirs: None, ours: at(0) });
        assert!(matches!(stamp(unstamped), Finding::Wrong { .. }));
        assert!(matches!((stamp(None), clock(unstamped)), (Finding::Skipped(_), Finding::Skipped(_))));
    }
}
