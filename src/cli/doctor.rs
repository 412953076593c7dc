//! `relay doctor`: checks what a deploy gets wrong, and says what to do.
//!
//! One line for each check, in a fixed order: `ok`, `WRONG` with its cure (the command or the setting), or `skipped` with the
//! reason. Each is bounded, and none depends on another's being well. It must never leave anything behind: the one thing
//! that it makes, a trial feed, is deleted also when it is interrupted.

mod broker;
mod checks;
mod permissions;
mod report;
mod socket;

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use humantime::format_duration as span;
use tokio_util::sync::CancellationToken;

pub use self::checks::{Checks, POD, Visit};
use self::report::{Finding, Report, brief};
use crate::{
    auth::{
        self,
        jwks::{self, JwksSource},
        jwt::{self, Keys},
    },
    pod::{Drain, drain::AFTER_DEADLINE},
};

/// Checks everything and writes what it finds; whether nothing is wrong. `stop` ends it early, which is not well.
///
/// # Errors
/// If `out` cannot be written.
pub async fn run(
    checks: &Checks,
    out: &mut (dyn Write + Send),
    stop: &CancellationToken,
) -> io::Result<bool> {
    let mut report = Report { out, counts: [0; 3] };
    broker::examine(&mut report, checks, stop).await?;
    if let Some(finding) = stop.run_until_cancelled(keys(&checks.pod.auth)).await {
        report.add("keys", &finding)?;
    }
    report.add("drain", &drain(checks.pod.drain, checks.grace))?;
    report.add("addresses", &addresses(checks))?;
    let visit = async {
        match &checks.visit {
            Some(visit) => socket::visit(visit).await,
            None => Finding::skipped("--url is not given: nobody knows the way that clients take"),
        }
    };
    if let Some(finding) = stop.run_until_cancelled(visit).await {
        report.add("balancer", &finding)?;
    }
    let [well, wrong, skipped] = report.counts;
    let end = if stop.is_cancelled() { "; stopped before the end" } else { "" };
    writeln!(report.out, "{well} ok, {wrong} wrong, {skipped} skipped{end}")?;
    Ok(wrong == 0 && !stop.is_cancelled())
}

/// Whether tokens can be checked.
async fn keys(auth: &auth::Settings) -> Finding {
    let source = match auth {
        auth::Settings::Demo => return Finding::skipped("RELAY_AUTH is demo: tokens are names"),
        auth::Settings::Jwt(jwt::Settings { keys: Keys::Secret(_), .. }) => {
            return Finding::ok("the secret is long enough");
        }
        auth::Settings::Jwt(jwt::Settings { keys: Keys::Jwks(source), .. }) => source,
    };
    let (name, cure) = match source {
        JwksSource::File(path) => {
            (path.display().to_string(), "let RELAY_JWT_JWKS name a JSON file {\"keys\": [...]}".to_owned())
        }
        JwksSource::Url(url) => (
            url.clone(),
            format!(
                "correct RELAY_JWT_JWKS, or let the pods out to it; it must answer here: curl --fail {url}"
            ),
        ),
    };
    match jwks::probe(source.clone()).await {
        Ok(keys) => Finding::ok(format!("{name}: {keys} usable")),
        Err(error) => Finding::wrong(format!("{name} lets nobody in: {}", brief(&*error)), cure),
    }
}

/// Whether a pod can end in the time that it is given, and its connections before.
fn drain(drain: Drain, grace: Option<Duration>) -> Finding {
    let Drain { delay, spread, deadline } = drain;
    if drain.is_cut_short() {
        return Finding::wrong(
            format!(
                "{} of delay and {} of spread are not over before the deadline of {}, which cuts connections off",
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
            Finding::skipped(format!("--grace is not given: {sum}, which the pod's grace must not be below"))
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

/// Whether others can reach a pod that listens here.
fn addresses(checks: &Checks) -> Finding {
    if !checks.in_kubernetes {
        return Finding::skipped("POD_NAME is not set: this is no pod of Kubernetes");
    }
    let (clients, machines) = (checks.pod.listen, checks.pod.admin_listen);
    let named = [("RELAY_LISTEN", Some(clients)), ("RELAY_ADMIN_LISTEN", machines)];
    let lonely = named.into_iter().find_map(|(name, address)| Some((name, address?)).filter(is_lonely));
    match lonely {
        Some((name, address)) => Finding::wrong(
            format!("{name} is {address}, which nobody outside the pod can reach"),
            format!("{name}=0.0.0.0:{}", address.port()),
        ),
        None => Finding::ok(format!("clients reach {clients}")),
    }
}

fn is_lonely((_, address): &(&str, SocketAddr)) -> bool {
    address.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_grace_must_outlast_the_deadline_and_what_is_closed_after_it() {
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
    fn a_finding_is_one_line() {
        let mut out = Vec::new();
        let mut report = Report { out: &mut out, counts: [0; 3] };
        report.add("topic", &Finding::wrong("it\nis not there", "make it")).unwrap();
        assert_eq!(out, b"WRONG    topic        it is not there. Cure: make it\n");
    }
}
