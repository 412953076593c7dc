//! Tests of the rules that both dialects share.

use super::*;

const BOTH: [Dialect; 2] = [Dialect::Transport, Dialect::Legacy];

#[test]
fn handshake_names_are_names_of_dialects() {
    assert_eq!(Dialect::NAMES.map(Dialect::parse), BOTH.map(Some));
    assert_eq!(Dialect::parse("graphql-subscriptions"), None);
}

#[test]
fn missing_init_closes_4408() {
    for dialect in BOTH {
        closes(&opened(dialect).on_init_timeout(), 4408, "Connection initialisation timeout");
    }
}

#[test]
fn timeout_is_for_init_not_its_answer() {
    for dialect in BOTH {
        let mut protocol = opened(dialect);
        protocol.on_text(INIT);
        assert_eq!(protocol.on_init_timeout(), Action::Nothing);
        assert_eq!(acknowledged(dialect).on_init_timeout(), Action::Nothing);
    }
}

#[test]
fn second_init_closes_4429_answered_or_not() {
    for dialect in BOTH {
        let mut waiting = opened(dialect);
        waiting.on_text(INIT);
        for mut protocol in [waiting, acknowledged(dialect)] {
            closes(&protocol.on_text(INIT), 4429, "Too many initialisation requests");
        }
    }
}

#[test]
fn bytes_close_4400() {
    for dialect in BOTH {
        closes(&acknowledged(dialect).on_binary(), 4400, "only text");
    }
}

#[test]
fn client_without_init_gets_no_acknowledgement() {
    for dialect in BOTH {
        assert!(opened(dialect).acknowledged(None).is_empty());
        assert!(acknowledged(dialect).acknowledged(None).is_empty());
        let mut ended = opened(dialect);
        ended.on_init_timeout();
        assert!(ended.acknowledged(None).is_empty());
    }
}

#[test]
fn acknowledgement_carries_payload_of_driver() {
    for dialect in BOTH {
        let mut protocol = opened(dialect);
        protocol.on_text(INIT);
        let frames = protocol.acknowledged(Some(&json!({"cursor": "c1"})));
        is_frame(&frames[0], &json!({"type": "connection_ack", "payload": {"cursor": "c1"}}));
    }
}

#[test]
fn ended_connection_answers_nothing() {
    for dialect in BOTH {
        let mut protocol = acknowledged(dialect);
        let frame = if dialect == Dialect::Legacy { start("1") } else { subscribe("1") };
        run(&mut protocol, &frame);
        protocol.on_binary();
        for text in [INIT, &frame, "{", r#"{"type":"ping"}"#, r#"{"type":"connection_terminate"}"#] {
            assert_eq!(protocol.on_text(text), Action::Nothing);
        }
        assert_eq!(protocol.on_binary(), Action::Nothing);
        assert_eq!(protocol.on_init_timeout(), Action::Nothing);
        assert_eq!(protocol.completed("1"), None);
        assert_eq!(protocol.rejected("1", &json!([])), None);
        assert_eq!(protocol.keep_alive(), None);
        assert_eq!(protocol.refused("late").0, None);
    }
}

#[test]
fn request_keeps_all_its_parts() {
    for (dialect, kind) in [(Dialect::Transport, "subscribe"), (Dialect::Legacy, "start")] {
        let payload =
            json!({"query": "q", "operationName": "n", "variables": {"a": [1]}, "extensions": {"b": 2}});
        let frame = json!({"id": "1", "type": kind, "payload": payload}).to_string();
        let (_, _, request) = run(&mut acknowledged(dialect), &frame);
        assert_eq!(request.query.as_deref(), Some("q"));
        assert_eq!(request.operation_name.as_deref(), Some("n"));
        assert_eq!(request.variables.map(Value::from), Some(json!({"a": [1]})));
        assert_eq!(request.extensions.map(Value::from), Some(json!({"b": 2})));
    }
}

#[test]
fn null_counts_as_absent_unknown_fields_are_ignored() {
    for (dialect, kind) in [(Dialect::Transport, "subscribe"), (Dialect::Legacy, "start")] {
        let payload =
            json!({"query": "q", "operationName": null, "variables": null, "extensions": null, "x": [{}]});
        let frame = json!({"id": "1", "type": kind, "payload": payload, "y": {}}).to_string();
        let (_, _, request) = run(&mut acknowledged(dialect), &frame);
        let plain =
            Request { query: Some("q".to_owned()), operation_name: None, variables: None, extensions: None };
        assert_eq!(request, plain);
        let init = r#"{"type":"connection_init","payload":null,"id":null}"#;
        assert_eq!(opened(dialect).on_text(init), Action::Authenticate { payload: None });
    }
}

#[test]
fn token_names_are_searched_in_order() {
    let payload = |value: Value| value.as_object().cloned();
    let found = |value: Value| token(payload(value).as_ref()).map(str::to_owned);
    assert_eq!(
        found(json!({"token": "a", "Authorization": "b", "authorization": "c"})).as_deref(),
        Some("a")
    );
    assert_eq!(found(json!({"Authorization": "b", "authorization": "c"})).as_deref(), Some("b"));
    assert_eq!(found(json!({"token": 1, "authorization": "c"})).as_deref(), Some("c"));
    assert_eq!(found(json!({"token": null})), None);
    assert_eq!(found(json!({"TOKEN": "a"})).as_deref(), Some("a"));
    let headers = json!({"Headers": {"AUTHORIZATION": "h"}, "other": "x"});
    assert_eq!(found(headers).as_deref(), Some("h"));
    assert_eq!(found(json!({"authorization": "a", "headers": {"Authorization": "h"}})).as_deref(), Some("a"));
    assert_eq!(found(json!({"headers": "h"})), None);
    assert_eq!(token(None), None);
}

#[test]
fn head_payload_and_tail_make_result_frame() {
    for (dialect, frame, kind) in [
        (Dialect::Transport, subscribe("a\"\\\n\u{1F41D}"), "next"),
        (Dialect::Legacy, start("a\"\\\n\u{1F41D}"), "data"),
    ] {
        let (id, head, _) = run(&mut acknowledged(dialect), &frame);
        let text = format!(r#"{head}{{"data":{{"a":1}}}}{TAIL}"#);
        is_frame(&text, &json!({"type": kind, "id": *id, "payload": {"data": {"a": 1}}}));
    }
}

#[test]
fn every_close_reason_fits_its_frame() {
    let long = "\u{1F41D}".repeat(64);
    let mut protocol = transport();
    run(&mut protocol, &subscribe(&long));
    closes(&protocol.on_text(&subscribe(&long)), 4409, "\u{1F41D} already exists");
    closes(&transport().on_text(&json!({"type": long}).to_string()), 4400, "\u{1F41D}");
    let (_, close) = transport().refused(&long);
    closes(&Action::Close(close), 4403, "Forbidden: \u{1F41D}");
}

#[test]
fn unrepresentable_operation_fails_alone() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for dialect in BOTH {
        let kind = if dialect == Dialect::Legacy { "start" } else { "subscribe" };
        let frame = |id: &str, value: &str| {
            format!(
                r#"{{"type":"{kind}","id":"{id}","payload":{{"query":"q","variables":{{"v":{value}}}}}}}"#
            )
        };
        let mut protocol = acknowledged(dialect);
        run(&mut protocol, &frame("live", "1"));
        for value in [r#""\ud83c""#, r#"{"\ud83c":1}"#, "1e999", &deep] {
            let Action::Write(answer) = protocol.on_text(&frame("2", value)) else { panic!("{value}") };
            assert!(answer.starts_with(r#"{"type":"error","id":"2","payload":"#), "{answer}");
            assert!(answer.contains("BAD_REQUEST"), "{answer}");
        }
        assert!(protocol.completed("live").is_some(), "the other operation runs on");
        run(&mut protocol, &frame("2", "1"));
    }
}

#[test]
fn unrepresentable_operation_needs_acknowledgement() {
    let frame = r#"{"type":"subscribe","id":"1","payload":{"query":"\ud83c"}}"#;
    closes(&opened(Dialect::Transport).on_text(frame), 4401, "Unauthorized");
}
