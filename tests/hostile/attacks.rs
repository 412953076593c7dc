//! Attacks of the long form. Each goes on until it is dropped.
//!
//! ZOLO and ZOWI attack, or peers without a token. An attack waits between its steps, so that the
//! pod, and not the attacker, has the work.

use std::time::Duration;

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    rates::large_locations,
    raw::{Raw, handshake, post_head},
    support::{Client, Data, Dialect, EVENTS, Http, OpCode, PARTS, PATIENCE},
};

const ADD: &str = "mutation ($t: AddTemplateInput!) { a: addTemplate(templateInput: $t) { template { shareLocationIds } } }";

/// Pause between two steps of an attacker.
const PAUSE: Duration = Duration::from_millis(5);

/// One attack on the pod with this port.
pub(crate) type Attack = fn(u16) -> BoxFuture<'static, ()>;

pub(crate) const ATTACKS: [(&str, Attack); 24] = [
    ("bodies that do not come", |port| bodies(port).boxed()),
    ("messages that do not end", |port| messages(port).boxed()),
    ("sockets that say nothing", |port| silence(port).boxed()),
    ("heads and tokens of 60 KB", |port| heads(port).boxed()),
    ("distinct subscriptions", |port| subscriptions(port).boxed()),
    ("distinct queries on one socket at a time", |port| queries(port).boxed()),
    ("new documents on 50 sockets", |port| documents(port).boxed()),
    ("answers that are not read", |port| answers(port).boxed()),
    ("results that are not read", |port| results(port).boxed()),
    ("reservations", |port| reservations(port).boxed()),
    ("queries over rows that are hidden", |port| hidden_rows(port).boxed()),
    ("pings without a pause", |port| pings(port).boxed()),
    ("one id, subscribed and completed", |port| churn(port).boxed()),
    ("connection_init with bad tokens", |port| inits(port).boxed()),
    ("streams that are not read", |port| streams(port).boxed()),
    ("GET with large variables", |port| gets(port).boxed()),
    ("deep documents and fragments", |port| deep(port).boxed()),
    ("resumes from the oldest cursor", |port| resumes(port).boxed()),
    ("answers compressed", |port| compressed(port).boxed()),
    ("the schema, as deep as may be", |port| schema(port).boxed()),
    ("operations of unread streams", |port| unread_streams(port).boxed()),
    ("restarts in the older protocol", |port| restarts(port).boxed()),
    ("pings with tokens", |port| refreshes(port).boxed()),
    ("bodies in chunks of a byte", |port| chunks(port).boxed()),
];

/// Returns a POST of this query, with further lines of the head.
fn post(query: &str, head: &str) -> String {
    let body = json!({ "query": query }).to_string();
    post_head("ZOLO", body.len()).replacen("\r\n", &format!("\r\n{head}"), 1) + &body
}

fn subscribe(id: u64, query: &str) -> String {
    json!({"id": id.to_string(), "type": "subscribe", "payload": {"query": query}}).to_string()
}

async fn bodies(port: u16) {
    loop {
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(Raw::begin_body(port, "ZOLO", 900_000).await);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn messages(port: u16) {
    loop {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
            client.socket.try_send_frame(OpCode::Data(Data::Text), &[b' '; 900_000], false).await;
            held.push(client);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn silence(port: u16) {
    let mut held = Vec::new();
    loop {
        let connect = TcpStream::connect(("127.0.0.1", port));
        held.extend(timeout(Duration::from_millis(100), connect).await);
        if held.len() >= 1_500 {
            held.drain(..500);
        }
        sleep(Duration::from_millis(1)).await;
    }
}

async fn heads(port: u16) {
    let (head, token) =
        (format!("GET /graphql HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(60_000)), "x".repeat(60_000));
    loop {
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(Raw::send(port, &head).await);
            held.push(Raw::send(port, handshake(&token)).await);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn subscriptions(port: u16) {
    let (fields, mut count) = ("id name ".repeat(40), 0);
    loop {
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
            for id in 0..64 {
                count += 1;
                let query = format!("subscription {{x{count}: templateAdded {{{fields}}}}}");
                client.socket.try_send_text(subscribe(id, &query)).await;
            }
            held.push(client);
        }
        sleep(Duration::from_secs(5)).await;
    }
}

async fn queries(port: u16) {
    let fields = "id name ".repeat(40);
    for count in 0_u64.. {
        let request = post(&format!("{{x{count}: templates {{{fields}}}}}"), "");
        Raw::send(port, request).await.answer(PATIENCE).await;
    }
}

async fn documents(port: u16) {
    let fields = "id name ".repeat(400);
    let attacker = async |number: u64| {
        let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
        for id in 0.. {
            let query = format!("query q{number}_{id} {{ templates {{ {fields} unknown }} }}");
            client.socket.try_send_text(subscribe(id, &query)).await;
            sleep(PAUSE).await;
        }
    };
    join_all((0..50).map(attacker)).await;
}

/// Adds ten templates of 128 KB.
async fn add_large(port: u16) {
    let http = Http::new(port);
    for _ in 0..10 {
        let template = json!({"name": "large", "shareLocationIds": large_locations()});
        http.graphql("ZOLO", ADD, json!({ "t": template })).await;
    }
}

async fn answers(port: u16) {
    add_large(port).await;
    loop {
        let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
        for id in 0..64 {
            client.socket.try_send_text(subscribe(id, "{templates {id name shareLocationIds}}")).await;
        }
        sleep(Duration::from_secs(2)).await;
    }
}

/// Watches on 32 connections and never reads, while another user publishes as much as it may.
async fn results(port: u16) {
    let mut held = Vec::new();
    for connection in 0..32 {
        let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
        for id in 0..4 {
            let query =
                format!("subscription {{x{connection}_{id}: templateAdded {{name shareLocationIds}}}}");
            client.start(&id.to_string(), &query).await;
        }
        held.push(client);
    }
    let http = Http::new(port);
    loop {
        let template = json!({"name": "flood", "shareLocationIds": large_locations()});
        http.graphql("ZOWI", ADD, json!({ "t": template })).await;
        sleep(PAUSE).await;
    }
}

async fn reservations(port: u16) {
    let put = "PUT /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ZOLO\r\n\r\n".repeat(100);
    loop {
        let Raw(mut socket) = Raw::send(port, &put).await;
        let mut read = vec![0; 64 << 10];
        let _ = timeout(Duration::from_secs(1), socket.read(&mut read)).await;
    }
}

/// Asks for all templates 30 times in one document, on 20 sockets, when 200 are hidden.
async fn hidden_rows(port: u16) {
    let http = Http::new(port);
    for n in 0..200 {
        http.add_template("ZOWI", &format!("hidden {n}"), Some(&["2"])).await;
    }
    let query = format!("{{ {} }}", (0..30).map(|n| format!("x{n}: templates {{id}} ")).collect::<String>());
    let attacker = async |_| {
        loop {
            Raw::send(port, post(&query, "")).await.answer(PATIENCE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

async fn pings(port: u16) {
    let attacker = async |_| {
        let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
        loop {
            for _ in 0..100 {
                client.socket.try_send_text(json!({"type": "ping"}).to_string()).await;
            }
            sleep(PAUSE).await;
        }
    };
    join_all((0..10).map(attacker)).await;
}

async fn churn(port: u16) {
    let attacker = async |_| {
        let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
        loop {
            for _ in 0..50 {
                client.socket.try_send_text(subscribe(1, "subscription {templateAdded {name}}")).await;
                client.socket.try_send_text(json!({"id": "1", "type": "complete"}).to_string()).await;
            }
            sleep(PAUSE).await;
        }
    };
    join_all((0..10).map(attacker)).await;
}

async fn inits(port: u16) {
    let token = "x".repeat(15_000);
    let init = json!({"type": "connection_init", "payload": {"token": token}}).to_string();
    // A masked frame, with a mask of zeros.
    let length = u16::try_from(init.len()).unwrap().to_be_bytes();
    let frame = [&[0x81, 0xfe], &length[..], &[0; 4], init.as_bytes()].concat();
    let attacker = async |_| {
        loop {
            let Raw(mut socket) = Raw::send(port, handshake("Bearer unknown")).await;
            let _ = socket.write_all(&frame).await;
            let _ = timeout(Duration::from_secs(1), socket.read(&mut [0; 1_024])).await;
            sleep(PAUSE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

async fn streams(port: u16) {
    loop {
        let mut held = Vec::new();
        for accept in [EVENTS, PARTS].repeat(100) {
            let request = post("subscription {templateAdded {name}}", &format!("Accept: {accept}\r\n"));
            held.push(Raw::send(port, request).await);
        }
        sleep(Duration::from_secs(2)).await;
    }
}

async fn gets(port: u16) {
    let values = Value::from(vec![0; 8_000]).to_string();
    let request = format!(
        "GET /graphql?query=%7Btemplates%7Bid%7D%7D&variables=%7B%22a%22:{values}%7D&extensions=%7B%22a%22:{values}%7D HTTP/1.1\r\n\
         Host: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer ZOLO\r\n\r\n"
    );
    let attacker = async |_| {
        loop {
            Raw::send(port, &request).await.answer(PATIENCE).await;
            sleep(PAUSE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

async fn deep(port: u16) {
    let nested = format!("{{ {} id {} }}", "a { ".repeat(400), "}".repeat(400));
    let levels = (1..60).map(|n| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1));
    let fragments = format!("{{ ...f1 }} {} fragment f60 on Query {{ a }}", levels.collect::<String>());
    let attacker = async |number: usize| {
        let request = post([&*nested, &*fragments][number % 2], "");
        loop {
            Raw::send(port, &request).await.answer(PATIENCE).await;
            sleep(PAUSE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

async fn resumes(port: u16) {
    let cursor = Client::cursor_at_start(port, "ZOLO").await;
    add_large(port).await;
    let attacker = async |_| {
        loop {
            let mut client = Client::connect(port, Dialect::Transport, "ZOLO").await;
            client.watch_after(&cursor).await;
            for _ in 0..100 {
                let Ok(Ok(_)) = timeout(Duration::from_secs(1), client.socket.receive()).await else { break };
            }
        }
    };
    join_all((0..60).map(attacker)).await;
}

async fn compressed(port: u16) {
    add_large(port).await;
    let request = post("{templates {id name shareLocationIds}}", "Accept-Encoding: gzip\r\n");
    let attacker = async |_| {
        loop {
            let Raw(mut socket) = Raw::send(port, &request).await;
            let _ = timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

/// Returns a query for the schema with this many lists within one another.
pub(crate) fn schema_lists(count: usize) -> String {
    let level = "fields { name type { name ofType { name ofType { name ";
    format!("{{ __schema {{ types {{ {} }} }} }}", level.repeat(count) + &"} } } }".repeat(count))
}

async fn schema(port: u16) {
    let request = post(&schema_lists(2), "");
    let attacker = async |_| {
        loop {
            Raw::send(port, &request).await.answer(PATIENCE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}

/// Reserves streams that are never read, and starts as many operations on each as it may.
async fn unread_streams(port: u16) {
    let put =
        "PUT /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer ZOLO\r\n\r\n";
    loop {
        let mut held = Vec::new();
        let mut answer = String::new();
        let Raw(mut socket) = Raw::send(port, put).await;
        let _ = timeout(PATIENCE, socket.read_to_string(&mut answer)).await;
        let token = answer.lines().last().unwrap_or_default();
        for id in 0..64 {
            let body = json!({"query": "{templates {id name shareLocationIds}}", "extensions": {"operationId": id.to_string()}});
            let (body, head) = (body.to_string(), format!("\r\nX-GraphQL-Event-Stream-Token: {token}\r\n"));
            let request = post_head("ZOLO", body.len()).replacen("\r\n", &head, 1) + &body;
            held.push(Raw::send(port, request).await);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn restarts(port: u16) {
    let query = "subscription {templateAdded {name}}";
    let start = json!({"id": "1", "type": "start", "payload": {"query": query}});
    repeats(port, Dialect::Legacy, &start.to_string()).await;
}

async fn refreshes(port: u16) {
    let ping = json!({"type": "ping", "payload": {"token": "Bearer ZOLO"}});
    repeats(port, Dialect::Transport, &ping.to_string()).await;
}

/// Sends one message on 50 sockets, again and again.
async fn repeats(port: u16, dialect: Dialect, message: &str) {
    let attacker = async |_| {
        let mut client = Client::connect(port, dialect, "ZOLO").await;
        loop {
            for _ in 0..100 {
                client.socket.try_send_text(message.to_owned()).await;
            }
            sleep(PAUSE).await;
        }
    };
    join_all((0..50).map(attacker)).await;
}

async fn chunks(port: u16) {
    let head = post_head("ZOLO", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let attacker = async |_| {
        let mut socket = Raw::send(port, &head).await.0;
        loop {
            if socket.write_all("1\r\n \r\n".repeat(1_000).as_bytes()).await.is_err() {
                socket = Raw::send(port, &head).await.0;
            }
            sleep(PAUSE).await;
        }
    };
    join_all((0..20).map(attacker)).await;
}
