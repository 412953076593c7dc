//! Many connections at a time, and nothing left of them.

use std::{process::Command, time::Duration};

use futures_util::{StreamExt as _, stream};

use crate::support::{Client, Dialect, Setup, eventually};

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

    // Events on their way to those who vanish
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

    // The index is empty too: an event finds the one who came since and nobody else
    let before = pod.metric("relay_events_matched_total").await;
    let mut clients = crate::support::watchers_on(&pod, Dialect::Transport, &["ZEWI"]).await;
    pod.add_template("ZOWI", "for one", Some(&["3"])).await;
    assert_eq!(clients[0].next().await, "for one");
    pod.until_metric("relay_events_matched_total", before + 1.0).await;
}

/// Lifts this process's own limit of open files as far as the machine allows.
pub(crate) fn allow_open_files() {
    let script = format!(r#"prlimit --pid {} --nofile="$(ulimit -H -n):""#, std::process::id());
    let status = Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
    assert!(status.success(), "prlimit, of the package util-linux, lifts the limit of open files");
}
