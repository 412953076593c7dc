//! A pod that is asked to stop.

use std::time::Duration;

use crate::support::{Dialect, Topic, USERS, four_pods, watchers_on};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_sends_its_watchers_elsewhere_and_leaves_nothing() {
    let Some(topic) = Topic::fresh().await else { return };
    let mut pods = four_pods(&topic).await;
    let mut pod = pods.pop().unwrap();
    let mut clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
    clients.extend(watchers_on(&pod, Dialect::Legacy, &USERS).await);
    assert_eq!(topic.feeds_of("pod4").await.len(), 1);

    pod.signal("TERM");
    for client in clients {
        let (told, end) = { client }.socket.hear_out().await;
        assert_eq!(end.code, 1012);
        // a client that reads it does not come back
        assert!(told.iter().all(|message| message["type"] != "complete"), "{told:?}");
    }
    let status = pod.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(topic.feeds_of("pod4").await.is_empty());

    for pod in &mut pods {
        pod.until_ready(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_pod_that_serves_nobody_stops_at_once() {
    let mut pod = crate::support::Setup::new("pod").start().await;
    pod.signal("INT");
    assert_eq!(pod.ended().await.code(), Some(0));
}
