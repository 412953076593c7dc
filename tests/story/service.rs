//! What Google's real service does and its emulator does not: refusals, quotas, credentials.
//!
//! A pod must recover by itself once the cause is gone, name the cause until then, and leave
//! nothing behind.

use std::{future::pending, time::Duration};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    doctor::{head, server},
    support::{Client, Dialect, Fault, Metadata, Relay, Service, Setup, eventually, free_ports},
};

/// Time in which a pod must work again once the cause of a failure is gone.
const RECOVERY: Duration = Duration::from_secs(20);

/// Returns whether this pod can publish a mutation's event.
async fn publishes(pod: &Relay) -> bool {
    let answer = pod.http.add_template(&Service::token("3"), "a", Some(&["3"])).await;
    answer.json()["data"]["addTemplate"]["success"] == true
}

async fn until_unready(pod: &Relay, word: &str) -> String {
    eventually(&format!("a reason names {word}"), RECOVERY, async || {
        let reasons = pod.http.try_get("/readyz").await?.json()["reasons"].to_string();
        reasons.contains(word).then_some(reasons)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn publisher_recovers_from_failed_token() {
    let faults = [Metadata::Status(404), Metadata::Status(503), Metadata::Hangs];
    join_all(faults.map(async |metadata| {
        let service = Service::start().await;
        // The client renews a token four minutes before its end, and at once if it is shorter.
        service.state().token_seconds = 5;
        let mut pod = service.pod("p").start().await;
        assert!(publishes(&pod).await);
        service.state().metadata = metadata;
        let reasons = until_unready(&pod, "no credentials for Google").await;
        assert!(!publishes(&pod).await, "{metadata:?}");
        assert!(reasons.contains("metadata server") || reasons.contains("127.0.0.1"), "{reasons}");
        service.state().metadata = Metadata::Sound;
        service.state().token_seconds = 3_600;
        pod.until_ready(RECOVERY).await;
        assert!(publishes(&pod).await, "{metadata:?}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_starts_once_metadata_server_answers() {
    let service = Service::start().await;
    service.state().metadata = Metadata::Hangs;
    let mut pod = service.pod("p").launch();
    eventually("the pod is up", RECOVERY, async || pod.http.try_get("/livez").await).await;
    let reasons = until_unready(&pod, "metadata server does not answer").await;
    assert!(reasons.contains("cure: "), "{reasons}");
    service.state().metadata = Metadata::Sound;
    pod.until_ready(RECOVERY).await;
    assert!(publishes(&pod).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_cannot_publish_is_unready() {
    let service = Service::start().await;
    let mut pods = [service.pod("a").start().await, service.pod("b").start().await];
    // The heartbeats of the other pod keep arriving.
    service.state().faults.insert("publish", Fault::denied().only("/pods/a"));
    let reasons = until_unready(&pods[0], "permission denied to publish").await;
    assert!(reasons.contains("grant the pod's identity the role"), "{reasons}");
    assert_eq!(pods[1].http.get("/readyz").await.status, 200);
    service.state().faults.clear();
    pods[0].until_ready(RECOVERY).await;
    assert!(publishes(&pods[0]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_seek_leaves_no_feeds_behind() {
    let service = Service::start().await;
    service.state().faults.insert("seek", Fault::denied());
    let mut pod = service.pod("p").launch();
    eventually("five tries", RECOVERY, async || {
        (service.state().calls.get("create").is_some_and(|&calls| calls >= 5)).then_some(())
    })
    .await;
    let reasons = until_unready(&pod, "permission denied to seek a feed").await;
    assert!(reasons.contains("(tried "), "{reasons}");
    service.state().faults.clear();
    pod.until_ready(RECOVERY).await;
    assert!(service.state().most_feeds <= 2, "{} feeds", service.state().most_feeds);
    eventually("one feed remains", RECOVERY, async || (service.state().feeds.len() == 1).then_some(())).await;
    assert_eq!(service.state().missed_deletions, 0, "nothing is deleted that was never made");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_creation_deletes_nothing() {
    let service = Service::start().await;
    service.state().faults.insert("create", Fault::exhausted());
    let mut pod = service.pod("p").launch();
    until_unready(&pod, "RESOURCE_EXHAUSTED").await;
    service.state().faults.clear();
    pod.until_ready(RECOVERY).await;
    assert!(service.state().calls["create"] <= 3, "{:?}", service.state().calls);
    assert_eq!(service.state().missed_deletions, 0);
    assert!(!pod.output().contains("left behind"), "{}", pod.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_full_of_own_feeds_is_freed() {
    let service = Service::start().await;
    {
        let mut state = service.state();
        state.quota = Some(20);
        for n in 0..20 {
            state.feeds.insert(format!("projects/p-1/subscriptions/events.p.1{n:x}-1"), Default::default());
        }
    }
    // Feeds that earlier processes of this pod left.
    service.pod("p").start().await;
    eventually("one feed remains", RECOVERY, async || (service.state().feeds_of("p") == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_listing_of_many_pages_ends() {
    let service = Service::start().await;
    {
        let mut state = service.state();
        // Six pages take twelve seconds; one call may take eight.
        state.page_delay = Duration::from_secs(2);
        for n in 0..50 {
            // Those of this pod are on the last page.
            let pod = if n < 48 { "a" } else { "p" };
            let name = format!("projects/p-1/subscriptions/events.{pod}.1{n:x}-1");
            state.feeds.insert(name, Default::default());
        }
    }
    let _pod = service.pod("p").start().await;
    let limit = Duration::from_secs(30);
    eventually("one feed remains", limit, async || (service.state().feeds_of("p") == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_stream_is_named() {
    let service = Service::start().await;
    service.state().faults.insert("stream", Fault::exhausted());
    let mut pod = service.pod("p").launch();
    let reasons = until_unready(&pod, "Pub/Sub refuses to receive: Quota exceeded").await;
    assert!(reasons.contains("raise the quota"), "{reasons}");
    service.state().faults.clear();
    pod.until_ready(RECOVERY).await;
    assert!(service.state().most_feeds <= 2, "{} feeds", service.state().most_feeds);
}

/// Starts a proxy that answers each request with `answer`, or with nothing.
async fn proxy(answer: Option<&'static str>) -> (String, JoinSet<()>) {
    server(move |mut socket| async move {
        head(&mut socket).await;
        match answer {
            Some(answer) => drop(socket.write_all(answer.as_bytes()).await),
            None => pending().await,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_before_service_is_named() {
    let nowhere = format!("127.0.0.1:{}", free_ports(1));
    let (refusing, _refuses) = proxy(Some("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")).await;
    let (silent, _swallows) = proxy(None).await;
    join_all([nowhere, refusing, silent].map(async |address| {
        let service = Service::start().await;
        let behind = |setup: Setup| {
            let setup = service.at(setup).set("RELAY_PUBSUB_ENDPOINT", "pubsub.invalid");
            setup.set("HTTPS_PROXY", format!("http://user:password@{address}"))
        };
        let pod = behind(Setup::new("p")).launch();
        eventually("the pod is up", RECOVERY, async || pod.http.try_get("/livez").await).await;
        let reasons = until_unready(&pod, "proxy").await;
        for words in [&*format!("the proxy at {address}"), "pubsub.invalid", "NO_PROXY", "cure: "] {
            assert!(reasons.contains(words), "{words}: {reasons}");
        }
        let doctor = behind(Setup::new("doctor").command_line(&["doctor"])).run().await;
        let report = String::from_utf8(doctor.stdout).unwrap();
        let line = report.lines().find(|line| line.contains(" topic ")).unwrap();
        assert!(line.starts_with("WRONG") && line.contains(&format!("the proxy at {address}")), "{report}");
        for text in [&*pod.output(), &report, &reasons] {
            assert!(!text.contains("password") && !text.contains("Some("), "{text}");
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_server_is_never_asked_by_proxy() {
    let service = Service::start().await;
    let nowhere = format!("http://127.0.0.1:{}", free_ports(1));
    let pod = service.pod("p").set("GCE_METADATA_HOST", service.host().replace("127.0.0.1", "127.0.0.2"));
    let pod = pod.set("HTTP_PROXY", nowhere).start().await;
    assert!(publishes(&pod).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_publishes_share_log_lines() {
    let service = Service::start().await;
    let pod = service.pod("p").start().await;
    service.state().faults.insert("publish", Fault::denied());
    for _ in 0..50 {
        assert!(!publishes(&pod).await);
    }
    let output = pod.until_output("publishing failed").await;
    let lines: Vec<&str> = output.lines().filter(|line| line.contains("publishing failed")).collect();
    assert!((1..=5).contains(&lines.len()), "{lines:#?}");
    for word in ["permission denied to publish", "cure: grant", "event=", "count="] {
        assert!(lines[0].contains(word), "{word}: {}", lines[0]);
    }
    assert!(!output.contains("Error {") && !output.contains("Some("), "no debug output: {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_is_measured_and_warned_of() {
    for (clock, ahead) in [(-3_600, 3_600.0), (3_600, -3_600.0)] {
        let service = Service::start().await;
        service.state().clock = clock;
        let pod = service.pod("p").start().await;
        let skew = pod.metric("relay_clock_skew_seconds").await;
        assert!((skew - ahead).abs() < 3.0, "{skew}");
        pod.until_output("this clock is ahead of the topic's").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_one_name_are_warned_of() {
    let service = Service::start().await;
    let first = service.pod("same").start().await;
    let second = service.pod("same").launch();
    eventually("a pod warns of its name", RECOVERY, async || {
        let is_warned = |pod: &Relay| pod.output().contains("another pod has the same name");
        (is_warned(&first) || is_warned(&second)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_pod_is_no_namesake() {
    let service = Service::start().await;
    let mut pod = service.pod("same").start().await;
    pod.kill();
    let pod = service.pod("same").start().await;
    sleep(Duration::from_secs(3)).await;
    assert!(!pod.output().contains("another pod"), "{}", pod.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_without_retention_is_warned_of() {
    let service = Service::start().await;
    service.state().retention = Some("0s");
    let pod = service.pod("p").start().await;
    pod.until_output("the topic retains nothing").await;
}

/// Returns the names of the templates that this pod knows.
async fn templates(pod: &Relay) -> String {
    let answer = pod.http.graphql(&Service::token("3"), "{ templates { name } }", Value::Null).await;
    answer.json()["data"]["templates"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_with_wrong_clock_reaches_back() {
    for clock in [-3_700, 3_700] {
        let service = Service::start().await;
        service.state().clock = clock;
        let first = service.pod("a").start().await;
        assert!(publishes(&first).await);
        let late = service.pod("b").start().await;
        assert!(late.metric("relay_events_received_total").await >= 1.0, "{clock}: {}", late.output());
        for pod in [&first, &late] {
            assert!(templates(pod).await.contains(r#""a""#), "{clock}: values age by the topic's clock");
        }
        assert!(service.state().feeds_of("b") <= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_pod_has_history_that_came_late() {
    let service = Service::start().await;
    let first = service.pod("a").start().await;
    assert!(publishes(&first).await);
    service.state().replay_delay = Duration::from_millis(1_200);
    let late = service.pod("b").start().await;
    assert!(templates(&late).await.contains(r#""a""#), "{}", late.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn late_delivery_leaves_pods_ready() {
    let service = Service::start().await;
    let pods = join_all(["a", "b"].map(|name| service.pod(name).start())).await;
    // A new feed does not count as silent within ten seconds, others after three intervals.
    sleep(Duration::from_secs(8)).await;
    service.state().delivery_delay = Duration::from_secs(6);
    let (end, mut degraded) = (Instant::now() + Duration::from_secs(16), 0);
    while Instant::now() < end {
        for pod in &pods {
            let answer = pod.http.get("/readyz").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            degraded += usize::from(answer.json()["degraded"] == true);
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(degraded > 0);
    let readiness = pods[0].http.get("/readyz").await.json();
    assert!(readiness["reasons"].to_string().contains(" s late"), "{readiness}");
    assert_eq!((pods[0].metric("relay_degraded").await, pods[0].metric("relay_ready").await), (1.0, 1.0));
    service.state().delivery_delay = Duration::ZERO;
    for pod in &pods {
        pod.until_metric("relay_degraded", 0.0).await;
        assert!(publishes(pod).await);
        assert!(service.state().most_feeds <= 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deaf_pod_is_unready() {
    let service = Service::start().await;
    let mut pods = [service.pod("a").start().await, service.pod("b").start().await];
    service.state().deaf = Some(".a.");
    let reasons = until_unready(&pods[0], "feed: ").await;
    assert_eq!(pods[1].http.get("/readyz").await.status, 200, "{reasons}");
    eventually("it is not ready", RECOVERY, async || {
        (pods[0].http.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    service.state().deaf = None;
    pods[0].until_ready(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_changes_no_latency() {
    join_all([-3_600, 3_600].map(async |clock| {
        let service = Service::start().await;
        service.state().clock = clock;
        let pod = service.pod("p").start().await;
        let mut client = Client::connect(pod.port(), Dialect::Transport, &Service::token("4")).await;
        client.watch().await;
        pod.until_metric("relay_watchers", 1.0).await;
        // An event that is faster than all heartbeats were counts as 0 s.
        let mut events = 0.0;
        let mut seconds = 0.0;
        while seconds == 0.0 && events < 20.0 {
            assert!(publishes(&pod).await);
            assert_eq!(client.next().await, "a");
            events += 1.0;
            pod.until_metric("relay_delivery_latency_seconds_count", events).await;
            seconds = pod.metric("relay_delivery_latency_seconds_sum").await;
        }
        assert!(seconds > 0.0 && seconds < 2.0, "{clock}: {seconds}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_cursor_is_by_topics_clock() {
    let service = Service::start().await;
    // The pod's clock is an hour ahead.
    service.state().clock = -3_600;
    let other = service.pod("a").start().await;
    let mut pod = service.pod("b").launch();
    eventually("its heartbeat is back", RECOVERY, async || {
        pod.http.try_get("/metrics").await?.text.contains("relay_clock_skew_seconds").then_some(())
    })
    .await;
    let token = Service::token("4");
    let cursor = Client::cursor_at_start(pod.port(), &token).await;
    assert_eq!(pod.http.get("/readyz").await.status, 503, "the cursor is of the time before");
    assert!(publishes(&other).await);
    pod.until_ready(RECOVERY).await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, &token).await;
    client.watch_after(&cursor).await;
    assert_eq!(client.next().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_history_is_no_news() {
    let service = Service::start().await;
    let first = service.pod("a").start().await;
    assert!(publishes(&first).await);
    sleep(Duration::from_secs(2)).await;
    service.state().replay_delay = Duration::from_secs(10);
    let late = service.pod("b").start().await;
    let mut client = Client::connect(late.port(), Dialect::Transport, &Service::token("4")).await;
    client.watch().await;
    assert_eq!(templates(&late).await, "[]", "history is to come");
    eventually("history has come", RECOVERY, async || {
        templates(&late).await.contains(r#""a""#).then_some(())
    })
    .await;
    let answer = first.http.add_template(&Service::token("3"), "new", Some(&["3"])).await;
    assert_eq!(answer.json()["data"]["addTemplate"]["success"], true);
    assert_eq!(client.next().await, "new");
}
