//! RFC 6455 on the wire of a pod, with a client that can break it.
//!
//! `ci/autobahn` tests the rest of the protocol. A broken frame must never affect another
//! connection.

use serde_json::json;

use crate::support::{Client, Data, Dialect, OpCode, Relay, Setup};

const TEXT: OpCode = OpCode::Data(Data::Text);
const MORE: OpCode = OpCode::Data(Data::Continue);

async fn connect(pod: &Relay) -> Client {
    Client::connect(pod.port(), Dialect::Transport, "ZOLO").await
}

#[tokio::test]
async fn pod_refuses_bad_handshake_with_reason() {
    let pod = Setup::new("pod").start().await;
    for (name, value, status) in [
        ("sec-websocket-version", "8", 426),
        ("sec-websocket-key", "short", 400),
        ("connection", "keep-alive", 400),
    ] {
        let answer = pod.http.upgrade_with(&[(name, value)]).await;
        assert_eq!((answer.status, &*answer.code()), (status, "BAD_REQUEST"), "{name}: {answer:?}");
        let version = if status == 426 { "13" } else { "" };
        assert_eq!(answer.header("sec-websocket-version"), version, "{answer:?}");
    }
    assert_eq!(pod.http.upgrade_with(&[]).await.status, 101);
    pod.until_metric("relay_connections", 0.0).await;
}

#[tokio::test]
async fn pong_echoes_ping_even_between_fragments() {
    let pod = Setup::new("pod").start().await;
    let mut socket = connect(&pod).await.socket;
    socket.send_frame(TEXT, br#"{"type":"ping","payload":{"a":""#, false).await;
    socket.send_frame(OpCode::from(9), b"\x00 not text \xff", true).await;
    assert_eq!(socket.receive_pong().await, b"\x00 not text \xff");
    // One character is split: its second byte is in the third fragment
    socket.send_frame(MORE, b"\xc3", false).await;
    socket.send_frame(MORE, b"\xb6\"}}", true).await;
    let pong = socket.receive().await.unwrap();
    assert_eq!((&pong["type"], &pong["payload"]["a"]), (&json!("pong"), &json!("ö")), "{pong}");
    // The answer to this last message proves that the pod understood all before it
    socket.send(json!({ "id": "1", "type": "subscribe", "payload": { "query": "{ nothing }" } })).await;
    assert_eq!(socket.receive().await.unwrap()["type"], "error");
}

#[tokio::test]
async fn broken_frame_ends_only_its_own_connection() {
    let pod = Setup::new("pod").start().await;
    let mut other = connect(&pod).await;
    other.watch().await;
    for (opcode, payload, code) in [
        (TEXT, &b"\xff"[..], 1007),
        (MORE, b"of what?", 1002),
        (OpCode::from(3), b"", 1002),
        (OpCode::from(8), &[3, 236], 1002),
        (TEXT, &vec![b'x'; (1 << 20) + 1], 1009),
    ] {
        let mut socket = connect(&pod).await.socket;
        socket.send_frame(opcode, payload, true).await;
        assert_eq!(socket.receive_to_end().await.1.code, code, "{opcode:?}");
    }
    pod.until_metric("relay_connections", 1.0).await;
    pod.add_template("ZOWI", "goes on", Some(&["3"])).await;
    assert_eq!(other.next().await, "goes on");
}

#[tokio::test]
async fn pod_echoes_close_code_of_client() {
    let pod = Setup::new("pod").start().await;
    for code in [1000, 1001, 4999] {
        assert_eq!(connect(&pod).await.socket.close_with(code).await, code);
    }
    let mut legacy = Client::connect(pod.port(), Dialect::Legacy, "ZOLO").await.socket;
    legacy.send(json!({ "type": "connection_terminate" })).await;
    assert_eq!(legacy.receive_to_end().await.1.code, 1000);
}
