//! Other programs on the same topic: some publish templates, some publish unusable messages.
//!
//! A topic is shared with programs that are not ours. A message that a pod cannot read must never
//! stop its feed.

use std::collections::HashSet;

use futures_util::future::join_all;

use crate::support::{Dialect, EVERYWHERE, Message, Setup, Topic, USERS, four_pods, locations, watchers_on};

/// Size of a very large message in bytes: 9 MiB; Pub/Sub takes 10 MB at most.
const HUGE: usize = 9 << 20;

/// Returns the locations of the nth template.
fn audience(n: usize) -> Vec<&'static str> {
    let first = EVERYWHERE[n % 4];
    if n.is_multiple_of(3) { vec![first, EVERYWHERE[(n / 4) % 4]] } else { vec![first] }
}

/// Returns messages that no pod can use, each with the reason under which pods count it.
fn poison() -> Vec<(Message, &'static str)> {
    let template = || Message::template("poison", &EVERYWHERE);
    vec![
        (template().without_attributes(), "not_cloudevent"),
        (template().with("ce-specversion", "2.0"), "specversion"),
        (template().with("ce-type", "invoice.paid.v1"), "unknown_type"),
        (template().with_data("{\"name\": "), "malformed"),
        (template().with_data(vec![b'x'; HUGE]), "malformed"),
        (template().with_data([0xff, 0xfe, 0x00]), "malformed"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_events_reach_exactly_their_audiences_between_poison() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let pods = four_pods(&topic).await;
    let mut clients: Vec<_> =
        join_all(pods.iter().map(|pod| watchers_on(pod, Dialect::Transport, &USERS))).await;

    let mut poison = poison().into_iter();
    for n in 0..100 {
        topic.publish([Message::template(&format!("foreign-{n}"), &audience(n))]).await;
        if n % 10 == 5 {
            topic.publish(poison.next().map(|(message, _)| message)).await;
        }
    }
    assert!(poison.next().is_none());
    // It has the same ordering key as all others, so no event can arrive after it
    topic.publish([Message::template("last", &EVERYWHERE)]).await;

    for client in clients.iter_mut().flatten() {
        let received = client.before("last").await;
        let is_for =
            |n: &usize| audience(*n).iter().any(|location| locations(&client.user).contains(location));
        let expected: Vec<_> = (0..100).filter(is_for).map(|n| format!("foreign-{n}")).collect();
        assert_eq!(received, expected, "{}", client.user);
    }
    for pod in &pods {
        for (reason, count) in
            [("not_cloudevent", 1.0), ("specversion", 1.0), ("unknown_type", 1.0), ("malformed", 3.0)]
        {
            let label = format!("reason=\"{reason}\"");
            let counted = pod.metric_of("relay_events_rejected_total", &label).await;
            assert!((counted - count).abs() < 0.5, "{reason} at {}: {counted}", pod.name());
        }
        assert_eq!(pod.http.get("/readyz").await.status, 200);
        let log = pod.output();
        let missing = "attribute specversion (ce-specversion) is missing; docs/PUBLISH.md";
        assert!(log.contains(missing), "the line names the attribute and the page: {log}");
        let ids = log.lines().filter(|line| line.contains("message rejected")).map(|line| {
            let id = line.split_once("message_id=\"").and_then(|(_, rest)| rest.split_once('"'));
            id.unwrap_or_else(|| panic!("a rejection without message id: {line}")).0.to_owned()
        });
        let ids: HashSet<String> = ids.filter(|id| !id.is_empty()).collect();
        assert_eq!(ids.len(), 5, "each message has its own id: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_event_is_delivered_once() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    let mut clients = watchers_on(&pods[1], Dialect::Transport, &["ZOLO"]).await;

    let twice = || Message::template("twice", &["3"]).with("ce-id", "the-same");
    topic.publish([twice(), twice(), Message::template("last", &["3"])]).await;

    assert_eq!(clients[0].before("last").await, ["twice"]);
    pods[1].until_metric("relay_events_deduplicated_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_events_reach_exactly_their_audience() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let pod = Setup::new("pod").topic(&topic).start().await;
    let mut watchers = watchers_on(&pod, Dialect::Transport, &["ZOLO", "ZELO"]).await;

    let batch = "application/cloudevents-batch+json";
    let messages = [
        Message::template("structured", &["3"]).structured(),
        Message::template("of ZOLO", &EVERYWHERE).with("ce-author", "4").structured(),
        Message::template("batch", &EVERYWHERE).structured().with("content-type", batch),
        Message::template("last", &EVERYWHERE),
    ];
    topic.publish(messages).await;

    assert_eq!(watchers[0].before("last").await, ["structured"]);
    assert_eq!(watchers[1].before("last").await, ["of ZOLO"]);
    let rejected = pod.metric_of("relay_events_rejected_total", "reason=\"batch\"").await;
    assert!((rejected - 1.0).abs() < 0.5, "{rejected}");
}
