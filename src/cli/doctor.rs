//! `relay doctor`: checks what a deploy gets wrong, and says what to do.
//!
//! One line for each check, in a fixed order: `ok`, `WRONG` with its cure (the command or the setting), or `skipped` with the
//! reason. Each is bounded, and none depends on another's being well. It must never leave anything behind: the one thing
//! that it makes, a trial feed, is deleted also when it is interrupted.

mod broker;
mod socket;

use std::{
    error::Error,
    io::{self, Write},
    iter::successors,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use humantime::format_duration as span;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{
        self,
        jwks::{self, JwksSource},
        jwt::{self, Keys},
    },
    broker::pubsub,
    pod::{self, Drain, drain::AFTER_DEADLINE},
};

/// The pod whose name the trial feed bears. It never heartbeats, so that any janitor deletes what it may leave.
pub const POD: &str = "doctor";

/// What is checked.
pub struct Checks {
    /// Settings of the pods.
    pub pod: pod::Settings,
    /// The topic, for the pod named [`POD`]; `None`: the in-memory broker.
    pub topic: Option<pubsub::Settings>,
    /// How long the orchestrator lets a pod end.
    pub grace: Option<Duration>,
    /// Whether this process runs as a pod of Kubernetes would.
    pub in_kubernetes: bool,
    /// The public way to the pods, if it is to be tried.
    pub visit: Option<Visit>,
}

/// How the public way to the pods is tried.
pub struct Visit {
    /// `ws://` or `wss://`.
    pub url: String,
    /// The web page that we pretend to be.
    pub origin: Option<String>,
    /// The file with a token.
    pub token_file: Option<PathBuf>,
    /// How long a connection must live.
    pub hold: Duration,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Ok(String),
    Wrong { what: String, cure: String },
    Skipped(String),
}

impl Finding {
    fn ok(what: impl Into<String>) -> Self {
        Self::Ok(what.into())
    }

    fn wrong(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), cure: cure.into() }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }
}

/// The lines as they come.
struct Report<'a> {
    out: &'a mut (dyn Write + Send),
    counts: [usize; 3],
}

impl Report<'_> {
    fn add(&mut self, check: &str, finding: &Finding) -> io::Result<()> {
        let (kind, word, text) = match finding {
            Finding::Ok(what) => (0, "ok", what.clone()),
            Finding::Wrong { what, cure } => (1, "WRONG", format!("{what}. Cure: {cure}")),
            Finding::Skipped(why) => (2, "skipped", why.clone()),
        };
        self.counts[kind] += 1;
        // A cause of an error may have lines of its own.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(self.out, "{word:<8} {check:<12} {text}")?;
        self.out.flush()
    }
}

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

/// What went wrong and, of all its causes, the first: those between say the same in other words.
fn brief(error: &(dyn Error + 'static)) -> String {
    match successors(error.source(), |&cause| cause.source()).last() {
        Some(root) => format!("{error}: {root}"),
        None => error.to_string(),
    }
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
