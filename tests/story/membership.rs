//! Membership by heartbeats: which pods are alive, which feeds are orphans, and which events were
//! lost.
//!
//! Heartbeats also protect feeds. The janitor must never delete the feed of a living pod.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    start::Bridge,
    support::{Client, Dialect, Message, PATIENCE, Relay, Setup, Topic, eventually, free_ports, watchers_on},
};

/// Returns a setup with short heartbeat intervals.
fn short_intervals(name: &str, topic: &Topic) -> Setup {
    let setup = Setup::new(name).topic(topic);
    setup.set("RELAY_HEARTBEAT_INTERVAL", "1s").set("RELAY_ORPHAN_AFTER", "4s")
}

async fn three_pods(topic: &Topic) -> Vec<Relay> {
    join_all(["one", "two", "three"].map(|name| short_intervals(name, topic).start())).await
}

async fn until_membership(pod: &Relay, pods: u64, connections: u64) {
    eventually("every pod has the membership", PATIENCE, async || {
        let readiness = pod.http.get("/readyz").await.json();
        (readiness["membership"] == json!({ "pods": pods, "connections": connections })).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn janitor_deletes_only_feed_of_killed_pod() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let mut pods = three_pods(&topic).await;
    let clients = watchers_on(&pods[0], Dialect::Transport, &["ZOLO", "ZEWI"]).await;
    for pod in &pods {
        until_membership(pod, 3, 2).await;
        let readiness = pod.http.get("/readyz").await.json();
        assert!(readiness["lag"].as_f64().is_some_and(|lag| lag < 30.0), "{readiness}");
        assert!((pod.metric("relay_membership_pods").await - 3.0).abs() < 0.5);
    }
    let feeds = async |pod: &'static str| topic.feeds_of(pod).await;
    let living = [feeds("one").await, feeds("two").await];

    pods[2].kill();
    assert_eq!(feeds("three").await.len(), 1);
    eventually("the orphan is deleted", Duration::from_secs(60), async || {
        feeds("three").await.is_empty().then_some(())
    })
    .await;
    assert_eq!([feeds("one").await, feeds("two").await], living);
    until_membership(&pods[0], 2, 2).await;
    let mut deleted = 0.0;
    for pod in &pods[..2] {
        deleted += pod.metric("relay_feed_orphans_deleted_total").await;
    }
    assert!((deleted - 1.0_f64).abs() < 0.5, "{deleted}");
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_pod_deletes_its_earlier_feed() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    // With the default settings the janitor would delete nothing for minutes
    let again = || Setup::new("pod").topic(&topic);
    let mut pod = again().start().await;
    let earlier = eventually("the pod has one feed", PATIENCE, async || {
        Some(topic.feeds_of("pod").await).filter(|feeds| feeds.len() == 1)
    })
    .await;
    pod.kill();
    let _pod = again().start().await;
    eventually("only the new feed is left", PATIENCE, async || {
        let feeds = topic.feeds_of("pod").await;
        (feeds.len() == 1 && feeds != earlier).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn janitor_deletes_twenty_feeds_at_once() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let pod = short_intervals("pod", &topic).start().await;
    for n in 0..25 {
        topic.make_orphan(&format!("dead{n}")).await;
    }
    let mut steps = Vec::new();
    eventually("all orphans are deleted", Duration::from_secs(60), async || {
        let deleted = pod.metric("relay_feed_orphans_deleted_total").await;
        if steps.last() != Some(&deleted) {
            steps.push(deleted);
        }
        (deleted == 25.0).then_some(())
    })
    .await;
    assert!(steps.windows(2).all(|steps| steps[1] - steps[0] <= 20.0), "{steps:?}");
}

/// Asserts that the watcher gets a gap notice and later events, and that a client that resumes gets
/// one too.
async fn assert_gap_reported(pod: &mut Relay, topic: &Topic, client: &mut Client, cursor: &str) {
    let notice = client.socket.receive().await.unwrap();
    assert_eq!(notice["payload"]["data"], json!({ "templateAdded": null }), "{notice}");
    assert_eq!(notice["payload"]["extensions"]["gap"]["reason"], "FEED_LOST", "{notice}");
    pod.until_ready(PATIENCE).await;
    topic.publish([Message::template("after", &["3"])]).await;
    assert_eq!(client.next().await, "after");

    // A client that resumes with an older cursor gets a gap notice too
    let mut resuming = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    let query = format!("subscription {{ templateAdded(after: {}) {{ name }} }}", Value::from(cursor));
    resuming.start("watch", &query).await;
    let notice = resuming.socket.receive().await.unwrap();
    assert_eq!(notice["payload"]["extensions"]["gap"]["reason"], "WINDOW_EXCEEDED", "{notice}");
}

/// Starts a pod with a watcher. Returns both and the cursor of an event that the watcher received.
async fn watched_pod(topic: &Topic) -> (Relay, Client, String) {
    let pod = short_intervals("pod", topic).start().await;
    let mut client = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await.pop().unwrap();
    topic.publish([Message::template("before", &["3"])]).await;
    let message = client.socket.receive().await.unwrap();
    assert_eq!(message["payload"]["data"]["templateAdded"]["name"], "before", "{message}");
    let cursor = message["payload"]["extensions"]["cursor"].as_str().unwrap().to_owned();
    (pod, client, cursor)
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_reports_gap_after_topic_is_deleted() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let (mut pod, mut client, cursor) = watched_pod(&topic).await;
    topic.drop().await;
    assert_gap_reported(&mut pod, &topic, &mut client, &cursor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_reports_gap_after_broker_restarts_empty() {
    let Some(topic) = Topic::fresh().await else { return };
    let host = format!("127.0.0.1:{}", free_ports(1));
    let bridge = Bridge::open(&host, topic.host()).await;
    let (mut pod, mut client, cursor) = watched_pod(&topic.seen_at(&host)).await;
    let (topic, emulator) = topic.anew().await;
    drop(bridge);
    let _bridge = Bridge::open(&host, topic.host()).await;
    assert_gap_reported(&mut pod, &topic, &mut client, &cursor).await;
    pod.kill();
    emulator.stop().await;
}

/// Creates a heartbeat as another program publishes it, with these last members of its data.
fn forged_heartbeat(pod: &str, members: &str) -> Message {
    let data =
        format!(r#"{{"pod":"{pod}","feed":"templates.{pod}.1","connections":9,"interval":1.0{members}}}"#);
    let event = Message::template("", &[]).with("ce-type", "relay.heartbeat.v1");
    event.with("ce-source", &format!("/pods/{pod}")).with_data(data)
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_heartbeats_only_spare_feeds() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let secret = ("RELAY_CONTROL_SECRET", "a-secret-of-at-least-thirty-two-bytes");
    let pods = ["one", "two"].map(|name| short_intervals(name, &topic).set(secret.0, secret.1).start());
    let pods = join_all(pods).await;
    for pod in &pods {
        until_membership(pod, 2, 0).await;
    }
    for pod in ["unsigned", "forged", "dead"] {
        topic.make_orphan(pod).await;
    }
    let hmac = format!(r#","sent":1764000000123,"hmac":"{}""#, "0".repeat(64));
    let forge = async || {
        let [unsigned, forged] = [("unsigned", ""), ("forged", &*hmac)];
        let heartbeats = [unsigned, forged, ("one", ""), ("two", &*hmac)];
        topic.publish(heartbeats.map(|(pod, members)| forged_heartbeat(pod, members))).await;
    };
    eventually("the feed of the dead pod is deleted", Duration::from_secs(60), async || {
        forge().await;
        topic.feeds_of("dead").await.is_empty().then_some(())
    })
    .await;
    for pod in ["unsigned", "forged", "one", "two"] {
        assert_eq!(topic.feeds_of(pod).await.len(), 1, "{pod}");
    }
    for pod in &pods {
        forge().await;
        let readiness = pod.http.get("/readyz").await;
        assert_eq!(readiness.status, 200, "{}", readiness.text);
        assert_eq!(readiness.json()["membership"], json!({ "pods": 2, "connections": 0 }));
        for reason in ["unsigned", "forged"] {
            let reason = format!("reason=\"{reason}\"");
            let ignored = pod.metric_of("relay_control_unproven_total", &reason).await;
            assert!(ignored >= 2.0, "{reason}: {ignored}");
        }
        assert!(pod.metric("relay_feed_silences_total").await < 0.5);
    }
    eventually("only silence makes orphans", Duration::from_secs(60), async || {
        let left = [topic.feeds_of("unsigned").await, topic.feeds_of("forged").await];
        left.iter().all(Vec::is_empty).then_some(())
    })
    .await;
}
