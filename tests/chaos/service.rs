//! Faults that only Google's real service and its metadata server have, on a fake of them.
//!
//! Each scenario plants one fault under load, cures it, and asserts that nothing was lost or
//! silent, that no pod had more than two feeds, and that each was ready again within 20 s. Two
//! scenarios of a test run at the same time, each on a service of its own. No fault may outlast its
//! scenario.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};
use tokio::time::sleep;

use crate::{
    oracle::{Ledger, Traffic},
    resuming::{Crowd, NARROW, Ports},
    shared_turn,
    support::{EVERYWHERE, Fault, Message, Metadata, PATIENCE, Relay, Service, USERS, eventually},
};

/// Clients of each scenario.
const CLIENTS: usize = 8;

/// Mutations per second, over all authors.
const EVENTS_PER_SECOND: u32 = 8;

/// Time in which every pod must be ready again once a fault is cured.
const RECOVERY: Duration = Duration::from_secs(20);

/// Time for which a fault lasts: longer than the three intervals of silence, and than a token.
const FAULT: Duration = Duration::from_secs(8);

/// Fault of the service, and its cure.
struct Scenario {
    name: &'static str,
    /// Prepares the service before its pods start.
    before: fn(&Service),
    plant: fn(&Service),
    cure: fn(&Service),
    /// Part of the reason that pods give meanwhile; empty if they stay ready or are back at once.
    reason: &'static str,
}

const NOTHING: fn(&Service) = |_| {};

/// Returns the token of a demo user.
fn token(user: &str) -> String {
    Service::token(match user {
        "ZELO" => "1",
        "ZEWI" => "2",
        "ZOWI" => "3",
        "ZOLO" => "4",
        _ => panic!("no user {user}"),
    })
}

async fn until_reason(pod: &Relay, scenario: &Scenario) {
    eventually(&format!("{}: a reason names {}", scenario.name, scenario.reason), PATIENCE, async || {
        let answer = pod.http.try_get("/readyz").await?;
        (answer.status == 503 && answer.text.contains(scenario.reason)).then_some(())
    })
    .await;
}

async fn publish(ledger: &Ledger, service: &Service, during: Duration) {
    for _ in 0..during.as_millis() / 500 {
        ledger.publish(service, 1, &EVERYWHERE, |message: Message| message).await;
        sleep(Duration::from_millis(500)).await;
    }
}

impl Scenario {
    /// Runs the fault beside two pods that work.
    async fn run(&self) {
        let service = Service::start().await;
        (self.before)(&service);
        let mut pods = join_all(["a", "b"].map(|name| service.pod(name).start())).await;
        let (ports, ledger) = (Ports::with_tokens(token), Ledger::default());
        pods.iter().for_each(|pod| ports.add(pod.port()));
        let crowd = Crowd::gather(&ports, &USERS, CLIENTS, NARROW).await;
        let traffic = Traffic::start(&ledger, &ports, EVENTS_PER_SECOND);
        sleep(Duration::from_secs(1)).await;

        (self.plant)(&service);
        let reasons = async {
            if !self.reason.is_empty() {
                join_all(pods.iter().map(|pod| until_reason(pod, self))).await;
            }
        };
        tokio::join!(publish(&ledger, &service, FAULT), reasons);
        (self.cure)(&service);

        for pod in &mut pods {
            pod.until_ready(RECOVERY).await;
        }
        ledger.revive(&service, &[&crowd]).await;
        traffic.stop().await;
        let refused = ledger.assert_refused_in_time();
        ledger.each_adds_on_each(&pods, &ports).await;
        let verdict = ledger.settle(&service, &[&crowd]).await;
        println!("{}: {}, {refused} mutations refused", self.name, verdict.summary());
        verdict.assert_flawless();
        self.assert_tidy(&service, pods.len()).await;
    }

    /// Runs the fault while a pod starts.
    async fn run_at_start(&self) {
        let service = Service::start().await;
        (self.before)(&service);
        (self.plant)(&service);
        let mut pod = service.pod("a").launch();
        until_reason(&pod, self).await;
        (self.cure)(&service);
        pod.until_ready(RECOVERY).await;
        println!("{} at the start: ready again", self.name);
        self.assert_tidy(&service, 1).await;
    }

    /// Asserts that no pod ever had more than two feeds, and that each is left with one.
    async fn assert_tidy(&self, service: &Service, pods: usize) {
        let most = service.state().most_of_one_pod;
        assert!(most <= 2, "{}: {most} feeds of one pod", self.name);
        eventually(&format!("{}: one feed is left for each pod", self.name), RECOVERY, async || {
            let state = service.state();
            (state.feeds_of("a") == 1 && state.feeds_of("b") == pods - 1).then_some(())
        })
        .await;
    }
}

/// Number of scenarios of a test that run at the same time.
const AT_ONCE: usize = 2;

/// Runs all scenarios beside pods that work, and some of them at a start as well.
async fn run(scenarios: &[Scenario], at_start: usize) {
    let running = scenarios.iter().map(|scenario| scenario.run().boxed_local());
    let starting = scenarios[..at_start].iter().map(|scenario| scenario.run_at_start().boxed_local());
    stream::iter(running.chain(starting)).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Life of tokens in seconds, so short that they are renewed during a fault.
const SHORT: u64 = 5;

fn metadata(name: &'static str, plant: fn(&Service)) -> Scenario {
    let before = |service: &Service| service.state().token_seconds = SHORT;
    let cure = |service: &Service| {
        service.state().metadata = Metadata::Sound;
        service.state().token_seconds = 3_600;
    };
    Scenario { name, before, plant, cure, reason: "no credentials for Google" }
}

/// Returns the scenario of a call that is refused when the feeds are gone.
fn refused(name: &'static str, plant: fn(&Service), reason: &'static str) -> Scenario {
    Scenario { name, before: NOTHING, plant, cure: |service| service.state().faults.clear(), reason }
}

/// Deletes all feeds, and refuses new ones: what is published meanwhile must come later.
fn take_feeds(service: &Service) {
    service.state().faults.insert("create", Fault::exhausted());
    service.state().delete_feeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_credentials_lose_nothing() {
    let _turn = shared_turn().await;
    let scenarios = [
        metadata("metadata 404", |service| service.state().metadata = Metadata::Status(404)),
        metadata("metadata 503", |service| service.state().metadata = Metadata::Status(503)),
        metadata("metadata hangs", |service| service.state().metadata = Metadata::Hangs),
    ];
    run(&scenarios, scenarios.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_service_lose_nothing() {
    let _turn = shared_turn().await;
    let scenarios = [
        refused(
            "seek refused",
            |service| {
                service.state().faults.insert("seek", Fault::denied());
                service.state().delete_feeds();
            },
            "permission denied to seek a feed",
        ),
        refused("administrative quota", take_feeds, "Quota exceeded"),
        refused(
            "quota of streams",
            |service| {
                service.state().faults.insert("stream", Fault::exhausted());
                service.state().delete_feeds();
            },
            "Pub/Sub refuses to receive: Quota exceeded",
        ),
        Scenario {
            name: "quota of subscriptions",
            before: NOTHING,
            plant: |service| {
                service.state().delete_feeds();
                service.state().quota = Some(0);
            },
            cure: |service| service.state().quota = None,
            reason: "Quota exceeded",
        },
    ];
    run(&scenarios, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lateness_of_service_loses_nothing() {
    let _turn = shared_turn().await;
    let scenarios = [
        Scenario {
            name: "late replay",
            before: NOTHING,
            // Later than an interval, after which a missing heartbeat would count as lost.
            plant: |service| {
                service.state().replay_delay = Duration::from_secs(4);
                service.state().delete_feeds();
            },
            cure: |service| service.state().replay_delay = Duration::ZERO,
            reason: "",
        },
        Scenario {
            name: "late delivery",
            before: NOTHING,
            plant: |service| service.state().delivery_delay = Duration::from_secs(5),
            cure: |service| service.state().delivery_delay = Duration::ZERO,
            reason: "",
        },
        Scenario {
            name: "goaway",
            before: NOTHING,
            plant: |service| service.state().send_away(),
            cure: NOTHING,
            reason: "",
        },
        Scenario {
            before: |service| service.state().clock = -3_600,
            ..refused("pods an hour ahead", take_feeds, "Quota exceeded")
        },
        Scenario {
            before: |service| service.state().clock = 3_600,
            ..refused("pods an hour behind", take_feeds, "Quota exceeded")
        },
    ];
    run(&scenarios, 0).await;
}
