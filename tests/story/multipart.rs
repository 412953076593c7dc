//! Apollo's multipart protocol for subscriptions.
//!
//! Apollo's clients can use it instead of a WebSocket. A subscription that was cut off must never
//! look complete.

use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use crate::{
    sse::add_large,
    support::{BodyEnd, EVERYWHERE, PARTS, Setup, Streamed, Topic, USERS, WATCH, four_pods, post},
};

fn name(part: &Value) -> &str {
    part["payload"]["data"]["templateAdded"]["name"].as_str().unwrap_or_else(|| panic!("{part}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tutorial_story_continues_on_another_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    let mut streams = Vec::new();
    for (pod, user) in pods.iter().zip(USERS) {
        streams.push(Streamed::watch(PARTS, pod, user).await);
    }
    pods[0].add_template("ZOWI", "for location 3", Some(&["3"])).await;
    let mut cursor = Value::Null;
    for stream in &mut streams[1..3] {
        let part = stream.part().await.unwrap();
        assert_eq!(name(&part), "for location 3");
        cursor = part["payload"]["extensions"]["cursor"].clone();
    }
    pods[1].add_template("ZOLO", "for everybody", Some(&EVERYWHERE)).await;
    for at in [0, 3] {
        assert_eq!(name(&streams[at].part().await.unwrap()), "for everybody", "{}", USERS[at]);
    }
    let query = format!("subscription {{ templateAdded(after: {cursor}) {{ name }} }}");
    let mut back = Streamed::open(PARTS, post(&pods[0], "ZEWI", &query)).await;
    while name(&back.part().await.unwrap()) != "for everybody" {}
}

#[tokio::test]
async fn heartbeats_begin_at_once_and_go_on() {
    let pod = Setup::new("pod").start().await;
    for accept in [PARTS, r#"multipart/mixed;subscriptionSpec="1.0", application/json"#] {
        let stream = Streamed::open(accept, post(&pod, "ZOLO", WATCH)).await;
        let media_type = r#"multipart/mixed;boundary="graphql";subscriptionSpec=1.0"#;
        assert_eq!(stream.response.headers()["content-type"], media_type);
    }
    let mut stream = Streamed::open(PARTS, post(&pod, "ZOLO", WATCH)).await;
    assert_eq!(stream.block().await.unwrap(), "");
    for _ in 0..2 {
        assert_eq!(stream.block().await.unwrap(), "\r\ncontent-type: application/json\r\n\r\n{}");
    }
}

#[tokio::test]
async fn single_result_is_part_then_closing_boundary() {
    let pod = Setup::new("pod").start().await;
    let accept = r#"multipart/mixed;subscriptionSpec="1.0""#;
    for (query, pointer) in
        [("{ locations { id } }", "/payload/data/locations/3"), ("{ nothing }", "/payload/errors/0")]
    {
        let mut stream = Streamed::open(accept, post(&pod, "ZOLO", query)).await;
        let part = stream.part().await.unwrap();
        assert!(part.pointer(pointer).is_some(), "{part}");
        assert_eq!(stream.block().await.unwrap_err(), BodyEnd::Whole);
        assert_eq!(stream.rest(), "--\r\n");
    }
}

#[tokio::test]
async fn draining_pod_sends_error_of_transport_last() {
    let mut pod = Setup::new("pod").start().await;
    let mut stream = Streamed::watch(PARTS, &pod, "ZOLO").await;
    pod.add_template("ZOWI", "last words", Some(&["3"])).await;
    assert_eq!(name(&stream.part().await.unwrap()), "last words");
    pod.signal("TERM");
    assert_interrupted(&mut stream, "LIMIT_REACHED").await;
    assert_eq!(pod.ended().await.code(), Some(0));
}

/// Checks that the body ends with an error of the transport: no client takes that for `complete`.
async fn assert_interrupted(stream: &mut Streamed, code: &str) {
    let part = stream.part().await.unwrap();
    assert_eq!(part["payload"], Value::Null, "{part}");
    assert_eq!(part["errors"][0]["extensions"]["code"], code, "{part}");
    assert_eq!(stream.block().await.unwrap_err(), BodyEnd::Whole);
    assert_eq!(stream.rest(), "--\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_client_reads_why_it_was_ended() {
    let pod = Setup::new("pod").set("RELAY_QUEUE_BYTES", "1MiB").start().await;
    let query = "subscription { templateAdded { name shareLocationIds } }";
    let mut slow = Streamed::open(PARTS, post(&pod, "ZOLO", query)).await;
    pod.until_metric("relay_watchers", 1.0).await;
    // Far more than the sockets' buffers and the send queue hold together
    for _ in 0..300 {
        add_large(&pod, 1).await;
        if pod.metric("relay_watchers").await < 0.5 {
            break;
        }
    }
    let mut received = 0;
    while let Ok(part) = slow.part().await {
        if part["payload"] == Value::Null {
            assert_eq!(part["errors"][0]["extensions"]["code"], "LIMIT_REACHED", "{part}");
            assert_eq!(slow.block().await.unwrap_err(), BodyEnd::Whole);
            return;
        }
        assert_eq!(name(&part), "large");
        received += 1;
    }
    panic!("cut after {received} events");
}

#[tokio::test]
async fn leaving_client_frees_its_watcher() {
    let pod = Setup::new("pod").start().await;
    drop(Streamed::watch(PARTS, &pod, "ZOLO").await);
    pod.until_metric("relay_watchers", 0.0).await;
    pod.until_metric("relay_connections", 0.0).await;
}

#[tokio::test]
async fn expired_token_sends_error_in_parts_only() {
    const SECRET: &str = "thirty-two bytes are just enough";
    let pod = Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", SECRET).start().await;
    let claims = || json!({ "sub": "4", "exp": get_current_timestamp() + 3 });
    let token =
        || encode(&Header::default(), &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let mut parts = Streamed::open(PARTS, post(&pod, &token(), WATCH)).await;
    assert_interrupted(&mut parts, "UNAUTHENTICATED").await;

    let mut events = Streamed::open(crate::support::EVENTS, post(&pod, &token(), WATCH)).await;
    assert_eq!(events.event().await.unwrap_err(), BodyEnd::Cut);
    pod.until_metric("relay_watchers", 0.0).await;
}
