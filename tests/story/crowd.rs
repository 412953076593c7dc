//! Many connections at once, and a pod that keeps nothing of them.
//!
//! A leak of one entry per connection would fill a pod in time. Each end must free the connection,
//! its watcher and its keys.

use std::{process::Command, time::Duration};

use futures_util::{StreamExt as _, stream};

use crate::support::{Client, Dialect, Setup, eventually};

/// Connections at the same time; half of them end without a close frame.
const CONNECTIONS: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn pod_keeps_nothing_of_2000_ended_connections() {
    allow_open_files();
    let pod = Setup::new("pod").start().await;
    let connect = |_| async {
        let mut client = Client::connect(pod.port(), Dialect::Transport, "ZEWI").await;
        client.watch().await;
        client
    };
    let clients: Vec<Client> = stream::iter(0..CONNECTIONS).map(connect).buffer_unordered(64).collect().await;
    let all = f64::from(u32::try_from(CONNECTIONS).unwrap());
    pod.until_metric("relay_connections", all).await;
    pod.until_metric("relay_watchers", all).await;

    // Events that are in the send queues while the connections end
    for n in 0..5 {
        pod.add_template("ZOWI", &format!("event-{n}"), Some(&["3"])).await;
    }
    let end = |(n, client): (usize, Client)| async move {
        if n % 2 == 0 {
            client.socket.abort();
        } else {
            client.socket.close().await;
        }
    };
    stream::iter(clients.into_iter().enumerate()).for_each_concurrent(64, end).await;

    eventually("no connection and no watcher is left", Duration::from_secs(30), async || {
        let (connections, watchers) =
            (pod.metric("relay_connections").await, pod.metric("relay_watchers").await);
        (connections == 0.0 && watchers == 0.0).then_some(())
    })
    .await;
    assert!((pod.metric("relay_connection_ends_total").await - all).abs() < 0.5);

    // The index of keys is empty too: an event matches only the new watcher
    let before = pod.metric("relay_events_matched_total").await;
    let mut clients = crate::support::watchers_on(&pod, Dialect::Transport, &["ZEWI"]).await;
    pod.add_template("ZOWI", "for one", Some(&["3"])).await;
    assert_eq!(clients[0].next().await, "for one");
    pod.until_metric("relay_events_matched_total", before + 1.0).await;
}

/// Raises this process's limit of open files to the machine's maximum.
pub(crate) fn allow_open_files() {
    let script = format!(r#"prlimit --pid {} --nofile="$(ulimit -H -n):""#, std::process::id());
    let status = Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
    assert!(status.success(), "prlimit, of the package util-linux, raises the limit of open files");
}
