//! Pods that die and feeds that are deleted, under traffic.
//!
//! Both happen in production. The watchers of other pods must never miss an event because of them.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::{Client, Dialect, Message, PATIENCE, Topic, four_pods, watchers_on};

/// Time in which a pod must receive events again after it lost its feed.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn other_pods_miss_nothing_when_one_is_killed() {
    const EVENTS: usize = 200;
    let Some(topic) = Topic::fresh().await else { return };
    let mut pods = four_pods(&topic).await;
    let mut victim = pods.pop().unwrap();
    let orphans = watchers_on(&victim, Dialect::Transport, &["ZOLO", "ZEWI"]).await;
    let mut clients: Vec<Client> = Vec::new();
    for pod in &pods {
        clients.extend(watchers_on(pod, Dialect::Transport, &["ZOLO", "ZEWI"]).await);
    }

    let expected: Vec<_> = (0..EVENTS).map(|n| format!("event-{n}")).collect();
    let traffic = async {
        for name in &expected {
            pods[0].add_template("ZOWI", name, Some(&["3"])).await;
        }
    };
    let kill = async {
        // In the middle of the traffic: 200 mutations take longer than this
        sleep(Duration::from_millis(200)).await;
        victim.kill();
    };
    let deliveries = join_all(clients.iter_mut().map(|client| client.until_all(expected.last().cloned())));
    let ((), (), received) = tokio::join!(traffic, kill, deliveries);

    for received in received {
        assert_eq!(received, expected);
    }
    for orphan in orphans {
        let (messages, end) = { orphan }.socket.receive_to_end().await;
        assert!(messages.len() < EVENTS, "the pod was killed too late to prove anything");
        assert_eq!(end.code, 1006);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_feed_reopens_within_ten_seconds_without_loss() {
    const EVENTS: usize = 20;
    let Some(topic) = Topic::on_pubsub().await else { return };
    let mut pods = four_pods(&topic).await;
    let mut clients = watchers_on(&pods[1], Dialect::Transport, &["ZOLO"]).await;
    topic.publish([Message::template("before", &["3"])]).await;
    assert_eq!(clients[0].next().await, "before");

    let feeds = topic.feeds_of("pod2").await;
    let [feed] = &feeds[..] else { panic!("one pod, one feed: {feeds:?}") };
    topic.delete(feed).await;
    let names: Vec<_> = (0..EVENTS).map(|n| format!("between-{n}")).collect();
    topic.publish(names.iter().map(|name| Message::template(name, &["3"]))).await;

    let received = tokio::time::timeout(RECOVERY, clients[0].until_all(names.clone())).await;
    let (mut received, mut all) = (received.expect("received within ten seconds"), names);
    // The emulator may bring one that was published in the moment of the creation after later ones
    // (decision 4).
    received.sort();
    all.sort();
    assert_eq!(received, all);
    pods[1].until_ready(RECOVERY).await;
    let feeds = topic.feeds_of("pod2").await;
    assert!(matches!(&feeds[..], [new] if new != feed), "{feeds:?} after {feed}");

    // The new feed replays earlier events, which the client does not receive again
    topic.publish([Message::template("after", &["3"])]).await;
    assert_eq!(clients[0].next().await, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_pod_answers_queries_like_others() {
    let Some(topic) = Topic::fresh().await else { return };
    let first = crate::support::Setup::new("first").topic(&topic).start().await;
    for n in 0..5 {
        first.add_template("ZOWI", &format!("template-{n}"), None).await;
    }
    let late = crate::support::Setup::new("late").topic(&topic).start().await;
    let names = first.template_names().await;
    assert_eq!(names.len(), 5);
    crate::support::eventually("the late pod returns the same templates", PATIENCE, async || {
        (late.template_names().await == names).then_some(())
    })
    .await;
}
