//! Fuzz test: arbitrary bytes through decoder and protocol together, as a connection's task passes
//! them on.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;

use super::{
    super::protocol::{Action, Close, Dialect, Protocol},
    tests::{client_frame, pieces, stream},
    *,
};

const LIMIT: usize = 2_000;
const MAX_OPERATIONS: usize = 3;

/// Generates one text of a client, valid or not.
fn client_text() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![
        "connection_init",
        "subscribe",
        "start",
        "complete",
        "stop",
        "ping",
        "pong",
        "connection_terminate",
        "ka",
        "",
    ]);
    let payload = prop_oneof![
        Just(json!({"query": "{ a }"})),
        Just(json!({"token": "Bearer ZOLO"})),
        any::<String>().prop_map(|text| json!({ "query": text, "variables": { "a": text } })),
        Just(json!(null)),
        Just(json!([1])),
    ];
    let text = (kind, "[1-4]", payload)
        .prop_map(|(kind, id, payload)| json!({ "type": kind, "id": id, "payload": payload }).to_string());
    let deep = (1usize..900).prop_map(|depth| "[".repeat(depth));
    prop_oneof![8 => text, 1 => any::<String>(), 1 => deep].prop_map(String::into_bytes)
}

/// Generates a conversation. Its texts may be cut into fragments, and one byte may be damaged.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let message =
        (client_text(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, at, is_cut)| {
            let (head, tail) = text.split_at(at.index(text.len() + 1));
            if is_cut {
                [client_frame(0x01, head), client_frame(0x89, b"?"), client_frame(0x80, tail)].concat()
            } else {
                client_frame(0x81, &text)
            }
        });
    let init = client_frame(0x81, br#"{"type":"connection_init"}"#);
    let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let sound =
        (prop::collection::vec(message, 0..12), any::<bool>()).prop_map(move |(mut messages, begins)| {
            if begins {
                messages.insert(0, init.clone());
            }
            messages.concat()
        });
    let damaged = (sound, damage).prop_map(|(mut bytes, damage)| {
        if let Some((at, byte)) = damage.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    prop_oneof![4 => damaged, 1 => stream()]
}

fn input() -> impl Strategy<Value = (bool, Vec<u8>, Vec<usize>)> {
    (any::<bool>(), conversation(), prop::collection::vec(1usize..200, 1..6))
}

/// Runs one connection with these bytes in these pieces. Panics if an invariant is broken.
fn drive(is_legacy: bool, bytes: &[u8], lengths: &[usize]) {
    let dialect = if is_legacy { Dialect::Legacy } else { Dialect::Transport };
    let (mut decoder, mut protocol) = (Decoder::new(LIMIT), Protocol::new(dialect, MAX_OPERATIONS));
    let mut running = BTreeSet::new();
    for mut piece in pieces(bytes, lengths) {
        while !piece.is_empty() {
            let action = match decoder.decode(&mut piece) {
                Err(error) => return assert!([1002, 1007, 1009].contains(&error.code())),
                Ok(Some(Message::Close(_))) => return,
                Ok(Some(Message::Text(text))) => protocol.on_text(&text),
                Ok(Some(Message::Binary(_))) => protocol.on_binary(),
                Ok(_) => continue,
            };
            assert!(decoder.data.capacity() <= LIMIT);
            match action {
                Action::Authenticate { .. } => assert!(!protocol.acknowledged(None).is_empty()),
                Action::Start { id, .. } => assert!(running.insert(id)),
                Action::Stop { id, .. } => assert!(running.remove(&id)),
                Action::Restart { id, .. } => assert!(running.contains(&id)),
                Action::Close(close) => return assert!(close.reason.len() <= Close::MAX_REASON),
                Action::Terminate => return,
                Action::Nothing | Action::Write(_) | Action::Refuse(_) | Action::Refresh { .. } => {}
            }
            assert!(running.len() <= MAX_OPERATIONS);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_break_connection((is_legacy, bytes, lengths) in input()) {
        drive(is_legacy, &bytes, &lengths);
    }
}

#[test]
#[ignore = "takes ten minutes; docs/PROTOCOLS.md has the command and its last result"]
fn no_bytes_break_connection_in_ten_minutes() {
    let (begin, mut cases) = (SystemTime::now(), 0u64);
    while begin.elapsed().unwrap() < Duration::from_secs(600) {
        let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..Default::default() });
        let run = runner.run(&input(), |(is_legacy, bytes, lengths)| {
            drive(is_legacy, &bytes, &lengths);
            Ok(())
        });
        run.unwrap();
        cases += u64::from(runner.config().cases);
    }
    println!("{cases} conversations");
}
