//! Events that one user publishes without a pause, on one pod and on several.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    support::{Client, Dialect, Relay, Setup, Topic, watchers_on},
    window::assert_missed_nothing,
};

/// Returns a pod with the rates that the program has by default.
fn limited(name: &str) -> Setup {
    Setup::new(name).set("RELAY_USER_EVENT_RATE", "").set("RELAY_USER_EVENT_BYTES", "")
}

/// Returns 1,000 locations of 127 characters: a template at its bounds, 128 KB.
pub(crate) fn large_locations() -> Vec<String> {
    ["3".to_owned()].into_iter().chain((1..1_000).map(|n| format!("{n:0>127}"))).collect()
}

/// Adds templates as this user on all pods at once. Returns how many passed.
async fn flood(pods: &[Relay], user: &str, count: usize, locations: &[String]) -> usize {
    let add = "mutation ($t: AddTemplateInput!) { a: addTemplate(templateInput: $t) { success } }";
    let variables = json!({ "t": { "name": "flood", "shareLocationIds": locations } });
    let one = async |n: usize| {
        let answer = pods[n % pods.len()].http.graphql(user, add, variables.clone()).await;
        let json = answer.json();
        if json["data"]["a"]["success"] == json!(true) {
            return 1;
        }
        let error = &json["errors"][0];
        assert_eq!(
            (answer.status, &error["extensions"]["code"]),
            (200, &json!("RATE_LIMITED")),
            "{answer:?}"
        );
        assert!(error["extensions"]["retryAfter"].as_u64().unwrap() > 0, "{answer:?}");
        assert_eq!(error["path"], json!(["a"]), "{answer:?}");
        0
    };
    let mut passed = 0;
    for n in 0..count {
        passed += one(n).await;
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_ends_no_reader_and_flushes_nothing() {
    let pod = limited("pod").start().await;
    let precious = pod.add_template("ZEWI", "precious", Some(&["3"])).await;
    let mut away = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    away.start("1", "subscription {templateAdded {name}}").await;
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZEWI", "first", Some(&["3"])).await;
    let cursor = away.socket.receive().await.unwrap()["payload"]["extensions"]["cursor"].clone();
    away.socket.abort();
    pod.until_metric("relay_watchers", 0.0).await;
    pod.add_template("ZEWI", "missed", Some(&["3"])).await;
    let mut readers = watchers_on(&pod, Dialect::Transport, &["ZOLO"; 10]).await;

    let began = Instant::now();
    let passed = flood(std::slice::from_ref(&pod), "ZOWI", 60, &large_locations()).await;
    let most = 16 + usize::try_from(began.elapsed().as_secs()).unwrap() / 4;
    assert!((10..=most).contains(&passed), "{passed}");
    assert!(pod.metric_of("relay_refusals_total", "limit=\"event_rate\"").await > 0.5);

    pod.add_template("ZEWI", "last", Some(&["3"])).await;
    for reader in &mut readers {
        let names = reader.before("last").await;
        assert_eq!(names.len(), passed, "each reader receives each event");
    }
    let query = "query ($id: ID!) { templateById(id: $id) { name } }";
    let found = pod.http.graphql("ZEWI", query, json!({ "id": precious })).await.json();
    assert_eq!(found["data"]["templateById"]["name"], "precious");
    let mut back = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    back.start("1", &format!("subscription {{templateAdded(after: {cursor}) {{name}}}}")).await;
    assert_missed_nothing(&mut back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_the_rate_of_a_user() {
    let Some(topic) = Topic::fresh().await else { return };
    let start = async |name| limited(name).set("RELAY_USER_EVENT_RATE", "5").topic(&topic).start().await;
    let pods = [start("pod1").await, start("pod2").await];
    let began = Instant::now();
    let passed = flood(&pods, "ZOWI", 80, &["3".to_owned()]).await;
    // What has been published since counts on the other pod when it comes through the feed.
    let most = 20 + 2 + 5 * usize::try_from(began.elapsed().as_secs() + 1).unwrap();
    assert!((20..=most).contains(&passed), "{passed} passed, {most} may");
    assert_eq!(flood(&pods[..1], "ZEWI", 5, &["3".to_owned()]).await, 5, "others go on");
    sleep(Duration::from_secs(3)).await;
    assert!(flood(&pods[1..], "ZOWI", 1, &["3".to_owned()]).await > 0, "and so does the user, later");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_count_for_the_rate() {
    let pod = limited("pod").start().await;
    let locations: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    let passed = flood(std::slice::from_ref(&pod), "ZOWI", 100, &locations).await;
    assert!((45..80).contains(&passed), "{passed} events of 6 KB, with 32 KB of keys each");
}
