//! The tutorial's story, and its limits without a broker between the pods.
//!
//! A template for location 3 reaches ZOLO and ZEWI on whatever pod they are. It must never reach
//! another user.

use futures_util::future::join_all;

use crate::support::{
    Client, Dialect, EVERYWHERE, Message, Relay, Setup, Topic, USERS, four_pods, watchers_on,
};

#[tokio::test(flavor = "multi_thread")]
async fn only_zolo_and_zewi_receive_zowis_template() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    for dialect in [Dialect::Transport, Dialect::Legacy] {
        run_story(&topic, &pods, dialect).await;
        for pod in &pods {
            pod.until_metric("relay_watchers", 0.0).await;
        }
    }
}

async fn run_story(topic: &Topic, pods: &[Relay], dialect: Dialect) {
    let mut users =
        join_all(pods.iter().zip(USERS.chunks(1)).map(|(pod, user)| watchers_on(pod, dialect, user))).await;
    let mut witnesses = join_all(pods.iter().map(|pod| watchers_on(pod, dialect, &["ZEWI"]))).await;

    let (name, last) = (format!("story-{dialect:?}"), format!("last-{dialect:?}"));
    let id = pods[0].add_template("ZOWI", &name, Some(&["3"])).await;
    assert!(!id.is_empty());
    for witness in witnesses.iter_mut().flatten() {
        assert_eq!(witness.next().await, name);
    }
    topic.publish([Message::template(&last, &EVERYWHERE)]).await;

    for client in users.iter_mut().flatten() {
        let received = client.before(&last).await;
        let expected: &[&str] = if ["ZOLO", "ZEWI"].contains(&&*client.user) { &[&name] } else { &[] };
        assert_eq!(received, expected, "{}", client.user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_without_broker_receive_only_own_events() {
    let pods = join_all((1..=4).map(|n| Setup::new(&format!("pod{n}")).start())).await;
    let mut watchers: Vec<Vec<Client>> =
        join_all(pods.iter().map(|pod| watchers_on(pod, Dialect::Transport, &["ZOLO", "ZEWI"]))).await;

    pods[0].add_template("ZOWI", "story", Some(&["3"])).await;
    for client in &mut watchers[0] {
        assert_eq!(client.next().await, "story");
    }
    // Each pod receives its own events: the first one proves that none came before it
    for (pod, clients) in pods.iter().zip(&mut watchers) {
        let last = format!("last of {}", pod.name());
        pod.add_template("ZOWI", &last, Some(&["3"])).await;
        for client in clients {
            assert_eq!(client.next().await, last);
        }
    }
}
