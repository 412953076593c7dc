//! Events that fill the replay window while a client is away.

use serde_json::{Value, json};

use crate::support::{Client, Dialect, Relay, Setup, watchers_on};

/// Watches as this user until the first event comes. Returns the cursor of it.
async fn leave(pod: &Relay, user: &str) -> Value {
    let mut client = watchers_on(pod, Dialect::Transport, &[user]).await.pop().unwrap();
    pod.add_template("ZEWI", "first", Some(&["2", "3"])).await;
    let cursor = client.socket.receive().await.unwrap()["payload"]["extensions"]["cursor"].clone();
    client.socket.close().await;
    cursor
}

/// Reads until the template `last`. Asserts that `missed` was among what came, and no gap.
pub(super) async fn assert_missed_nothing(client: &mut Client) {
    let mut names = Vec::new();
    while names.last() != Some(&json!("last")) {
        let next = client.socket.receive().await.unwrap();
        assert_eq!(next["payload"]["extensions"]["gap"], Value::Null, "{next}");
        names.push(next["payload"]["data"]["templateAdded"]["name"].clone());
    }
    assert!(names.contains(&json!("missed")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_gives_gaps_only_to_its_audience() {
    let pod = Setup::new("pod").set("RELAY_REPLAY_BYTES", "1MiB").start().await;
    let [elsewhere, concerned] = [leave(&pod, "ZOLO").await, leave(&pod, "ZOWI").await];
    pod.add_template("ZEWI", "missed", Some(&["3"])).await;
    let large: Vec<String> = (0..1_000).map(|n| format!("{n:0>127}")).collect();
    let locations: Vec<&str> = ["2"].into_iter().chain(large.iter().skip(1).map(String::as_str)).collect();
    for _ in 0..12 {
        pod.add_template("ZELO", "flood", Some(&locations)).await;
    }
    pod.add_template("ZEWI", "last", Some(&["3"])).await;
    let resume = async |user: &str, cursor: Value| {
        let mut client = Client::connect(pod.port(), Dialect::Transport, user).await;
        client.watch_after(cursor.as_str().unwrap()).await;
        client
    };
    let mut back = resume("ZOLO", elsewhere).await;
    assert_missed_nothing(&mut back).await;
    let next = resume("ZOWI", concerned).await.socket.receive().await.unwrap();
    assert_eq!(next["payload"]["extensions"]["gap"]["reason"], "WINDOW_EXCEEDED", "{next}");
}
