//! `relay doctor`: checks a deployment for common faults, and prints a cure for each fault.
//!
//! It prints one line for each check, in a fixed order: `ok`, `WRONG` with the cure (a command or a
//! setting), or `skipped` with the reason. Each check is bounded in time, and a fault that one
//! check finds does not stop the others. It must never leave anything behind: it creates only a
//! trial feed, and deletes that feed even when it is interrupted.

mod broker;
mod checks;
mod clock;
mod permissions;
mod postgres;
mod rabbitmq;
mod report;
mod socket;

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use humantime::format_duration as span;
use tokio_util::sync::CancellationToken;

pub use self::checks::{Checks, POD, Target, Visit};
use self::report::{Finding, Report};
use crate::{
    auth::{
        self,
        jwks::{self, JwksSource, NoKeys},
        jwt::{Keys, TrustedIssuer},
    },
    pod::{Drain, drain::AFTER_DEADLINE},
};

/// Runs all checks and writes their findings to `out`. Returns whether nothing is wrong. `stop`
/// ends the checks early; then it returns `false`.
///
/// # Errors
/// If `out` cannot be written.
pub async fn run(
    checks: &Checks,
    out: &mut (dyn Write + Send),
    stop: &CancellationToken,
) -> io::Result<bool> {
    let mut report = Report { out, counts: [0; 3] };
    match &checks.target {
        Target::Memory => {
            report.add("topic", &memory(checks.in_kubernetes))?;
        }
        Target::PubSub(topic) => broker::examine(&mut report, topic, checks, stop).await?,
        Target::Postgres(topic) => postgres::examine(&mut report, topic, checks, stop).await?,
        Target::RabbitMq(topic) => rabbitmq::examine(&mut report, topic, checks, stop).await?,
    }
    if let Some(finding) = stop.run_until_cancelled(keys(&checks.pod.auth)).await {
        report.add("keys", &finding)?;
    }
    report.add("drain", &drain(checks.pod.drain, checks.grace))?;
    report.add("addresses", &addresses(checks))?;
    let visit = async {
        match &checks.visit {
            Some(visit) => socket::visit(visit).await,
            None => Finding::skipped("--url is not given: the URL of the clients is unknown"),
        }
    };
    if let Some(finding) = stop.run_until_cancelled(visit).await {
        report.add("balancer", &finding)?;
    }
    let [ok, wrong, skipped] = report.counts;
    let end = if stop.is_cancelled() { "; stopped before the end" } else { "" };
    writeln!(report.out, "{ok} ok, {wrong} wrong, {skipped} skipped{end}")?;
    Ok(wrong == 0 && !stop.is_cancelled())
}

/// Judges the in-memory broker, which has nothing else to check.
fn memory(in_kubernetes: bool) -> Finding {
    let what = "RELAY_BROKER is memory:, so other pods receive no events";
    match in_kubernetes {
        true => Finding::wrong(what, "RELAY_BROKER=pubsub://PROJECT/TOPIC"),
        false => Finding::skipped(format!("{what}; Pub/Sub is not checked")),
    }
}

/// Checks that there are usable keys for the tokens of each issuer.
async fn keys(auth: &auth::Settings) -> Finding {
    let auth::Settings::Jwt(settings) = auth else {
        return Finding::skipped("RELAY_AUTH is demo: tokens are names");
    };
    let mut found = Vec::new();
    for TrustedIssuer { keys, .. } in &settings.issuers {
        found.push(match keys {
            Keys::Secret(_) => "the secret is long enough".to_owned(),
            Keys::Jwks(source) => match jwks::probe(source).await {
                Ok(keys) => format!("{source}: usable keys: {keys}"),
                Err(NoKeys { what, cure }) => {
                    return Finding::wrong(what, format!("{cure} ({})", setting(source)));
                }
            },
        });
    }
    Finding::ok(found.join("; "))
}

/// Returns the setting that names the source.
const fn setting(source: &JwksSource) -> &'static str {
    match source {
        JwksSource::Discovery(_) => "RELAY_JWT_ISSUER",
        JwksSource::File(_) | JwksSource::Url(_) => "RELAY_JWT_JWKS",
    }
}

/// Checks that a drain ends before its deadline, and a pod before its grace period is over.
fn drain(drain: Drain, grace: Option<Duration>) -> Finding {
    let Drain { delay, spread, deadline } = drain;
    if drain.is_cut_short() {
        return Finding::wrong(
            format!(
                "{} of delay and {} of spread are not over before the deadline of {}: connections are cut",
                span(delay),
                span(spread),
                span(deadline)
            ),
            "a longer RELAY_DRAIN_DEADLINE, or a shorter RELAY_DRAIN_DELAY or RELAY_DRAIN_SPREAD",
        );
    }
    let (closing, needed) = (AFTER_DEADLINE, deadline + AFTER_DEADLINE);
    let sum = format!("{} of deadline and {} to close make {}", span(deadline), span(closing), span(needed));
    match grace {
        None => {
            Finding::skipped(format!("--grace is not given: {sum}, and the grace must be as long at least"))
        }
        Some(grace) if grace < needed => Finding::wrong(
            format!("{sum}, but a pod is killed after {}", span(grace)),
            format!(
                "terminationGracePeriodSeconds: {}, or a shorter RELAY_DRAIN_DEADLINE",
                needed.as_secs_f64().ceil()
            ),
        ),
        Some(grace) => Finding::ok(format!(
            "{} of delay and {} of spread are within the deadline; {sum}, within {} of grace",
            span(delay),
            span(spread),
            span(grace)
        )),
    }
}

/// Checks that a pod with these addresses can be reached from outside.
fn addresses(checks: &Checks) -> Finding {
    if !checks.in_kubernetes {
        return Finding::skipped("POD_NAME is not set: this is no pod of Kubernetes");
    }
    let (clients, admin) = (checks.pod.listen, checks.pod.admin_listen);
    let named = [("RELAY_LISTEN", Some(clients)), ("RELAY_ADMIN_LISTEN", admin)];
    let unreachable =
        named.into_iter().find_map(|(name, address)| Some((name, address?)).filter(is_loopback));
    match unreachable {
        Some((name, address)) => Finding::wrong(
            format!("{name} is {address}, which cannot be reached from outside the pod"),
            format!("{name}=[::]:{}", address.port()),
        ),
        None => Finding::ok(format!("clients can reach {clients}")),
    }
}

fn is_loopback((_, address): &(&str, SocketAddr)) -> bool {
    address.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn grace_covers_deadline_and_closing() {
        let waits = Drain { delay: SECOND * 5, spread: SECOND * 20, deadline: SECOND * 45 };
        assert!(matches!(drain(waits, Some(SECOND * 60)), Finding::Ok(_)));
        let Finding::Wrong { what, cure } = drain(waits, Some(SECOND * 59)) else { panic!() };
        assert!(what.contains("killed after 59s"), "{what}");
        assert!(cure.contains("terminationGracePeriodSeconds: 60"), "{cure}");
        assert!(matches!(drain(waits, None), Finding::Skipped(_)));
        let cut_short = Drain { deadline: SECOND * 25, ..waits };
        assert!(matches!(drain(cut_short, Some(SECOND * 60)), Finding::Wrong { .. }));
    }

    #[test]
    fn finding_takes_one_line() {
        let mut out = Vec::new();
        let mut report = Report { out: &mut out, counts: [0; 3] };
        report.add("topic", &Finding::wrong("it\nis not there", "make it")).unwrap();
        assert_eq!(out, b"WRONG    topic        it is not there. Cure: make it\n");
    }
}
