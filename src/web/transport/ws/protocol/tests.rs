//! Tests of the rules one by one: each row of either PROTOCOL.md, and what the libraries do beyond
//! it.

mod both_dialects;
mod graphql_transport_ws;
mod legacy_graphql_ws;

use super::*;

pub(super) const INIT: &str = r#"{"type":"connection_init"}"#;
const DOCUMENT: &str = "subscription { templateAdded { id } }";

fn opened(dialect: Dialect) -> Protocol {
    Protocol::new(dialect, 3)
}

fn acknowledged(dialect: Dialect) -> Protocol {
    let mut protocol = opened(dialect);
    assert_eq!(protocol.on_text(INIT), Action::Authenticate { payload: None });
    assert!(!protocol.acknowledged(None).is_empty());
    protocol
}

fn transport() -> Protocol {
    acknowledged(Dialect::Transport)
}

fn legacy() -> Protocol {
    acknowledged(Dialect::Legacy)
}

pub(super) fn subscribe(id: &str) -> String {
    json!({"type": "subscribe", "id": id, "payload": {"query": DOCUMENT}}).to_string()
}

pub(super) fn start(id: &str) -> String {
    json!({"type": "start", "id": id, "payload": {"query": DOCUMENT}}).to_string()
}

fn run(protocol: &mut Protocol, frame: &str) -> (Arc<str>, Arc<str>, Request) {
    match protocol.on_text(frame) {
        Action::Start { id, head, request } => (id, head, request),
        other => panic!("{frame} was answered by {other:?}"),
    }
}

#[track_caller]
fn closes(action: &Action, code: u16, reason: &str) {
    let Action::Close(close) = action else { panic!("not closed: {action:?}") };
    assert_eq!(close.code, code, "{close:?}");
    assert!(close.reason.contains(reason), "{close:?} does not say {reason:?}");
    assert!(close.reason.len() <= Close::MAX_REASON);
}

#[track_caller]
fn writes(action: Action, frame: &Value) {
    let Action::Write(text) = action else { panic!("nothing written: {action:?}") };
    is_frame(&text, frame);
}

#[track_caller]
fn is_frame(text: &str, frame: &Value) {
    assert_eq!(&serde_json::from_str::<Value>(text).expect("a frame is JSON"), frame);
}
