//! Answers that a client asks for and does not read.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, time::Instant};

use crate::support::{Client, Dialect, PATIENCE, Relay, Setup, eventually};

/// Query whose answer is about 1.8 MB once [`fill`] has run.
const LIST: &str = "{templates {id name shareLocationIds}}";

/// Adds 14 templates of 128 KB, fewer than a user may add at once.
async fn fill(pod: &Relay) {
    let locations: Vec<String> = (0..1_000).map(|n| format!("{n:0>127}")).collect();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for _ in 0..14 {
        pod.add_template("ZOWI", "large", Some(&locations)).await;
    }
}

/// Opens a socket with the smallest buffer, sends the request, and never reads.
async fn ask_and_never_read(pod: &Relay, user: &str) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], pod.port()).into()).await.unwrap();
    let body = json!({ "query": LIST }).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {user}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_use_up_only_their_user() {
    let pod = Setup::new("pod").set("RELAY_MEMORY", "64MiB").start().await;
    fill(&pod).await;
    let before = pod.memory();
    let mut attacker = Client::connect(pod.port(), Dialect::Transport, "ZOWI").await;
    for id in 0..32 {
        attacker.start(&id.to_string(), LIST).await;
    }
    let mut unread = Vec::new();
    for _ in 0..64 {
        unread.push(ask_and_never_read(&pod, "ZOWI").await);
    }
    pod.until_metric_is("relay_refusals_total", "limit=\"answers\"", |count| count > 0.5).await;
    let began = Instant::now();
    let answer = pod.http.graphql("ZOLO", "{templates {name}}", Value::Null).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(answer.json()["data"]["templates"].as_array().unwrap().len(), 14, "{answer:?}");
    let grown = pod.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    drop((attacker, unread));
    eventually("the ledger is empty", PATIENCE, async || {
        (pod.metric_of("relay_budget_used_bytes", "pool=\"answers\"").await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answer_above_its_bound_has_no_data() {
    let pod = Setup::new("pod").set("RELAY_ANSWER_BYTES", "64KiB").start().await;
    let locations: Vec<String> = (0..1_000).map(|n| format!("{n:0>100}")).collect();
    let input = json!({ "t": { "name": "large", "shareLocationIds": locations } });
    let add = "mutation ($t: AddTemplateInput!) { addTemplate(templateInput: $t) { template { shareLocationIds } } }";
    let answers = [
        pod.http.graphql("ZOWI", add, input).await,
        pod.http.graphql("ZOWI", "{ templates { shareLocationIds } }", Value::Null).await,
        pod.http
            .graphql("ZOWI", "{ templates { name } a: templates { shareLocationIds } }", Value::Null)
            .await,
    ];
    for answer in answers {
        assert_eq!((answer.status, &*answer.code()), (200, "RESULT_TOO_LARGE"), "{answer:?}");
        let json = answer.json();
        assert!(json["data"].is_null() && json["extensions"]["cursor"].is_string(), "{answer:?}");
    }
    assert_eq!(pod.template_names().await, ["large"], "the mutation has run");

    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOWI").await;
    client.start("a", "{ templates { shareLocationIds } }").await;
    let next = client.socket.receive().await.unwrap();
    assert_eq!(next["payload"]["errors"][0]["extensions"]["code"], "RESULT_TOO_LARGE", "{next}");
    assert_eq!(client.socket.receive().await.unwrap(), json!({ "id": "a", "type": "complete" }));
}
