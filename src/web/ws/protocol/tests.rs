//! Every rule of both subprotocols, a test each.

use proptest::prelude::*;

use super::*;

const SUBSCRIBE: &str = r#"{"id":"1","type":"subscribe","payload":{"query":"subscription { a }"}}"#;
const START: &str = r#"{"id":"1","type":"start","payload":{"query":"subscription { a }"}}"#;

fn fresh(dialect: Dialect) -> Protocol {
    Protocol::new(dialect, 2)
}

fn acknowledged(dialect: Dialect) -> Protocol {
    let mut protocol = fresh(dialect);
    assert_eq!(protocol.on_text(r#"{"type":"connection_init"}"#), Action::Authenticate { payload: None });
    protocol.admitted(None);
    protocol
}

fn code(action: Action) -> u16 {
    match action {
        Action::Close(close) => {
            assert!(close.reason.len() <= 123);
            close.code
        }
        other => panic!("expected a close, got {other:?}"),
    }
}

fn written(action: Action) -> Value {
    match action {
        Action::Write(frame) => serde_json::from_str(&frame).unwrap(),
        other => panic!("expected a frame, got {other:?}"),
    }
}

fn started(action: Action) -> (String, String) {
    match action {
        Action::Start { id, head, .. } => (id.to_string(), head.to_string()),
        other => panic!("expected a start, got {other:?}"),
    }
}

#[test]
fn the_ack_may_carry_a_payload() {
    let mut protocol = fresh(Dialect::Transport);
    protocol.on_text(r#"{"type":"connection_init","payload":{"token":"Bearer ZOWI"}}"#);
    assert_eq!(protocol.admitted(Some(&json!({"a": 1}))), [r#"{"payload":{"a":1},"type":"connection_ack"}"#]);
}

#[test]
fn a_token_is_found_under_each_of_its_names() {
    for name in ["token", "Authorization", "authorization"] {
        let mut protocol = fresh(Dialect::Transport);
        let init = json!({"type": "connection_init", "payload": {name: "Bearer ZOWI"}}).to_string();
        let Action::Authenticate { payload } = protocol.on_text(&init) else { panic!("no authentication") };
        assert_eq!(token(payload.as_ref()), Some("Bearer ZOWI"));
    }
    assert_eq!(token(None), None);
    assert_eq!(token(json!({"token": 7}).as_object()), None);
}

#[test]
fn what_makes_no_sense_closes_with_4400() {
    for text in [
        "",
        "hello",
        "[]",
        "7",
        "null",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"start","id":"1","payload":{"query":"{a}"}}"#,
        r#"{"type":"connection_ack"}"#,
        r#"{"type":"next","id":"1","payload":{}}"#,
        r#"{"type":"connection_init","payload":[]}"#,
        r#"{"type":"ping","payload":7}"#,
        r#"{"type":"complete"}"#,
        r#"{"type":"subscribe","payload":{"query":"{a}"}}"#,
        r#"{"type":"subscribe","id":"","payload":{"query":"{a}"}}"#,
        r#"{"type":"subscribe","id":7,"payload":{"query":"{a}"}}"#,
        r#"{"type":"subscribe","id":"1"}"#,
        r#"{"type":"subscribe","id":"1","payload":{}}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":7}}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":"{a}","variables":[]}}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":"{a}","operationName":1}}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":"{a}","extensions":""}}"#,
    ] {
        assert_eq!(code(acknowledged(Dialect::Transport).on_text(text)), 4400, "{text}");
    }
    let long = SUBSCRIBE.replace("\"1\"", &format!("{:?}", "i".repeat(257)));
    assert_eq!(code(acknowledged(Dialect::Transport).on_text(&long)), 4400);
    assert_eq!(code(acknowledged(Dialect::Transport).on_text(&"[".repeat(100_000))), 4400);
    for dialect in [Dialect::Transport, Dialect::Legacy] {
        assert_eq!(code(acknowledged(dialect).on_binary()), 4400);
    }
}

#[test]
fn nothing_counts_after_the_end() {
    let mut protocol = acknowledged(Dialect::Transport);
    protocol.on_text("hello");
    assert_eq!(protocol.on_text(SUBSCRIBE), Action::Nothing);
    assert_eq!(protocol.on_binary(), Action::Nothing);
    assert_eq!(protocol.on_init_timeout(), Action::Nothing);
}

#[test]
fn subscribing_before_the_ack_closes_with_4401() {
    assert_eq!(code(fresh(Dialect::Transport).on_text(SUBSCRIBE)), 4401);
    let mut protocol = fresh(Dialect::Transport);
    protocol.on_text(r#"{"type":"connection_init"}"#);
    assert_eq!(code(protocol.on_text(SUBSCRIBE)), 4401, "not even while we look into it");
}

#[test]
fn being_refused_closes_with_4403() {
    let (frame, close) = fresh(Dialect::Transport).refused("no such user");
    assert_eq!((frame, close.code), (None, 4403));
    let (frame, close) = fresh(Dialect::Legacy).refused("no such user");
    assert_eq!(frame.unwrap(), r#"{"payload":{"message":"no such user"},"type":"connection_error"}"#);
    assert_eq!(close.code, 4403);
}

#[test]
fn silence_closes_with_4408_but_only_before_init() {
    assert_eq!(code(fresh(Dialect::Transport).on_init_timeout()), 4408);
    assert_eq!(code(fresh(Dialect::Legacy).on_init_timeout()), 4408);
    assert_eq!(acknowledged(Dialect::Transport).on_init_timeout(), Action::Nothing);
}

#[test]
fn an_id_in_use_closes_with_4409() {
    let mut protocol = acknowledged(Dialect::Transport);
    protocol.on_text(SUBSCRIBE);
    assert_eq!(
        protocol.on_text(SUBSCRIBE),
        Action::Close(Close::new(4409, "Subscriber for 1 already exists"))
    );
    let mut protocol = acknowledged(Dialect::Transport);
    let long = SUBSCRIBE.replace("\"1\"", &format!("{:?}", "é".repeat(120)));
    protocol.on_text(&long);
    assert_eq!(code(protocol.on_text(&long)), 4409, "with a reason that still fits the frame");
}

#[test]
fn a_second_init_closes_with_4429() {
    for dialect in [Dialect::Transport, Dialect::Legacy] {
        assert_eq!(code(acknowledged(dialect).on_text(r#"{"type":"connection_init"}"#)), 4429);
    }
}

#[test]
fn a_ping_is_answered_with_its_payload_at_any_time() {
    let mut protocol = fresh(Dialect::Transport);
    assert_eq!(written(protocol.on_text(r#"{"type":"ping"}"#)), json!({"type": "pong"}));
    let pong = written(protocol.on_text(r#"{"type":"ping","payload":{"a":1}}"#));
    assert_eq!(pong, json!({"type": "pong", "payload": {"a": 1}}));
    assert_eq!(protocol.on_text(r#"{"type":"pong","payload":{"a":1}}"#), Action::Nothing);
}

#[test]
fn a_result_is_framed_with_the_escaped_id() {
    let mut protocol = acknowledged(Dialect::Transport);
    let (id, head) = started(protocol.on_text(&SUBSCRIBE.replace("\"1\"", r#""a\"\\b""#)));
    assert_eq!(id, r#"a"\b"#);
    let frame: Value = serde_json::from_str(&frame(&head, r#"{"data":null}"#)).unwrap();
    assert_eq!(frame, json!({"id": id, "type": "next", "payload": {"data": null}}));
}

#[test]
fn an_id_is_free_again_however_its_operation_ended() {
    let mut protocol = acknowledged(Dialect::Transport);
    protocol.on_text(SUBSCRIBE);
    let stop = protocol.on_text(r#"{"id":"1","type":"complete"}"#);
    assert_eq!(stop, Action::Stop { id: "1".into(), reply: None }, "and nothing is echoed");
    started(protocol.on_text(SUBSCRIBE));
    assert_eq!(protocol.completed("1").unwrap(), r#"{"id":"1","type":"complete"}"#);
    started(protocol.on_text(SUBSCRIBE));
    let errors = json!([{"message": "no"}, {"message": "never"}]);
    let error: Value = serde_json::from_str(&protocol.rejected("1", &errors).unwrap()).unwrap();
    assert_eq!(error, json!({"id": "1", "type": "error", "payload": errors}));
    started(protocol.on_text(SUBSCRIBE));
}

#[test]
fn nothing_follows_complete() {
    let mut protocol = acknowledged(Dialect::Transport);
    protocol.on_text(SUBSCRIBE);
    protocol.on_text(r#"{"id":"1","type":"complete"}"#);
    assert_eq!(protocol.completed("1"), None);
    assert_eq!(protocol.rejected("1", &json!([])), None);
    assert_eq!(protocol.on_text(r#"{"id":"1","type":"complete"}"#), Action::Nothing);
}

#[test]
fn one_operation_too_many_is_refused_and_the_others_go_on() {
    for (dialect, text) in [(Dialect::Transport, SUBSCRIBE), (Dialect::Legacy, START)] {
        let mut protocol = acknowledged(dialect);
        started(protocol.on_text(text));
        started(protocol.on_text(&text.replace("\"1\"", "\"2\"")));
        let refusal = written(protocol.on_text(&text.replace("\"1\"", "\"3\"")));
        assert_eq!((&refusal["id"], &refusal["type"]), (&json!("3"), &json!("error")));
        assert_eq!(protocol.operations.len(), 2);
    }
}

#[test]
fn the_older_dialect_keeps_alive_from_the_ack_on() {
    let mut protocol = fresh(Dialect::Legacy);
    assert_eq!(protocol.keep_alive(), None);
    protocol.on_text(r#"{"type":"connection_init","payload":{}}"#);
    assert_eq!(protocol.admitted(None), [r#"{"type":"connection_ack"}"#, r#"{"type":"ka"}"#]);
    assert_eq!(acknowledged(Dialect::Transport).keep_alive(), None);
}

#[test]
fn the_older_dialect_starts_stops_and_says_data() {
    let mut protocol = acknowledged(Dialect::Legacy);
    let (_, head) = started(protocol.on_text(START));
    assert_eq!(frame(&head, "{}"), r#"{"id":"1","type":"data","payload":{}}"#);
    let reply = Some(r#"{"id":"1","type":"complete"}"#.to_owned());
    assert_eq!(protocol.on_text(r#"{"id":"1","type":"stop"}"#), Action::Stop { id: "1".into(), reply });
    assert_eq!(protocol.on_text(r#"{"id":"1","type":"stop"}"#), Action::Nothing);
}

#[test]
fn the_older_dialect_starts_anew_on_an_id_in_use() {
    let mut protocol = acknowledged(Dialect::Legacy);
    started(protocol.on_text(START));
    assert!(matches!(protocol.on_text(START), Action::Restart { .. }));
    assert_eq!(protocol.operations.len(), 1);
}

#[test]
fn the_older_dialect_complains_and_goes_on() {
    let mut protocol = fresh(Dialect::Legacy);
    assert_eq!(written(protocol.on_text("hello"))["type"], "connection_error");
    let early = written(protocol.on_text(START));
    assert_eq!(
        (&early["type"], &early["payload"]["message"]),
        (&json!("error"), &json!("a token is required"))
    );
    let mut protocol = acknowledged(Dialect::Legacy);
    assert_eq!(written(protocol.on_text(r#"{"id":"1","type":"nonsense"}"#))["type"], "error");
    assert_eq!(written(protocol.on_text(r#"{"type":"start","payload":{"query":"{a}"}}"#))["type"], "error");
    let errors = json!([{"message": "no"}]);
    started(protocol.on_text(START));
    let error: Value = serde_json::from_str(&protocol.rejected("1", &errors).unwrap()).unwrap();
    assert_eq!(error["payload"], json!({"message": "no"}), "one error, not a list");
}

#[test]
fn the_older_dialect_says_goodbye() {
    assert_eq!(
        acknowledged(Dialect::Legacy).on_text(r#"{"type":"connection_terminate"}"#),
        Action::Terminate
    );
}

/// Frames that a client might send, sensible and not.
fn text() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "connection_init",
        "connection_terminate",
        "ping",
        "pong",
        "subscribe",
        "start",
        "complete",
        "stop",
        "next",
        "",
    ]);
    let id = prop::sample::select(vec![json!("1"), json!("2"), json!("3"), json!(1), json!(""), Value::Null]);
    let payload = prop::sample::select(vec![
        json!({"query": "{a}"}),
        json!({"query": "{a}", "variables": null}),
        json!({}),
        json!([]),
        Value::Null,
    ]);
    let framed = (kind, id, payload)
        .prop_map(|(kind, id, payload)| json!({"type": kind, "id": id, "payload": payload}).to_string());
    prop_oneof![8 => framed, 1 => ".*", 1 => r#"[{}\[\]":,a-z0-9\\]{0,40}"#]
}

proptest! {
    #[test]
    fn no_conversation_panics_or_runs_more_than_it_may(
        is_legacy in any::<bool>(),
        texts in prop::collection::vec(text(), 0..40),
    ) {
        let mut protocol = fresh(if is_legacy { Dialect::Legacy } else { Dialect::Transport });
        let mut running = HashSet::new();
        for text in texts {
            match protocol.on_text(&text) {
                Action::Authenticate { .. } => drop(protocol.admitted(None)),
                Action::Start { id, .. } => prop_assert!(running.insert(id), "an id in use was started"),
                Action::Restart { id, .. } => prop_assert!(running.contains(&id)),
                Action::Stop { id, .. } => prop_assert!(running.remove(&id), "what does not run was stopped"),
                Action::Close(close) => prop_assert!(close.reason.len() <= 123),
                Action::Write(frame) => prop_assert!(serde_json::from_str::<Value>(&frame).is_ok()),
                Action::Nothing | Action::Terminate => {}
            }
            prop_assert!(running.len() <= 2);
        }
    }
}
