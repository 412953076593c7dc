//! Tests of the current dialect, `graphql-transport-ws`.

use super::*;

#[test]
fn init_gets_acknowledgement_only() {
    let mut protocol = opened(Dialect::Transport);
    let payload = json!({"token": "Bearer ZOWI"}).as_object().cloned();
    let init = r#"{"type":"connection_init","payload":{"token":"Bearer ZOWI"}}"#;
    assert_eq!(protocol.on_text(init), Action::Authenticate { payload });
    assert_eq!(protocol.acknowledged(None), [r#"{"type":"connection_ack"}"#]);
}

#[test]
fn refused_viewer_is_closed_4403_without_frame() {
    let mut protocol = opened(Dialect::Transport);
    protocol.on_text(INIT);
    let (frame, close) = protocol.refused("the token has expired");
    assert_eq!(frame, None);
    assert_eq!((close.code, &*close.reason), (4403, "Forbidden: the token has expired"));
    assert_eq!(protocol.on_text(INIT), Action::Nothing);
}

#[test]
fn subscribe_before_acknowledgement_closes_4401() {
    closes(&opened(Dialect::Transport).on_text(&subscribe("1")), 4401, "Unauthorized");
    let mut waiting = opened(Dialect::Transport);
    waiting.on_text(INIT);
    closes(&waiting.on_text(&subscribe("1")), 4401, "Unauthorized");
}

#[test]
fn ping_always_gets_pong_with_its_payload() {
    for mut protocol in [opened(Dialect::Transport), transport()] {
        writes(protocol.on_text(r#"{"type":"ping"}"#), &json!({"type": "pong"}));
        writes(protocol.on_text(r#"{"type":"ping","payload":null}"#), &json!({"type": "pong"}));
        let echoed = protocol.on_text(r#"{"payload": {"at": 1e400, "x": [ ]}, "type": "ping"}"#);
        assert_eq!(echoed, Action::Write(r#"{"type":"pong","payload":{"at": 1e400, "x": [ ]}}"#.to_owned()));
    }
}

#[test]
fn pong_never_gets_answer() {
    for mut protocol in [opened(Dialect::Transport), transport()] {
        assert_eq!(protocol.on_text(r#"{"type":"pong"}"#), Action::Nothing);
        assert_eq!(protocol.on_text(r#"{"type":"pong","payload":{"a":1}}"#), Action::Nothing);
    }
}

#[test]
fn subscribe_starts_operation_under_its_id() {
    let (id, head, request) = run(&mut transport(), &subscribe("1"));
    assert_eq!((&*id, &*head), ("1", r#"{"type":"next","id":"1","payload":"#));
    assert_eq!(request.query.as_deref(), Some(DOCUMENT));
}

#[test]
fn id_in_use_closes_4409() {
    let mut protocol = transport();
    run(&mut protocol, &subscribe("1"));
    run(&mut protocol, &subscribe("2"));
    closes(&protocol.on_text(&subscribe("1")), 4409, "Subscriber for 1 already exists");
}

#[test]
fn ended_operation_completes_once_and_frees_id() {
    let mut protocol = transport();
    run(&mut protocol, &subscribe("1"));
    is_frame(&protocol.completed("1").expect("a frame"), &json!({"type": "complete", "id": "1"}));
    assert_eq!(protocol.completed("1"), None);
    run(&mut protocol, &subscribe("1"));
}

#[test]
fn complete_of_client_frees_id_without_echo() {
    let mut protocol = transport();
    run(&mut protocol, &subscribe("1"));
    let complete = r#"{"type":"complete","id":"1"}"#;
    assert_eq!(protocol.on_text(complete), Action::Stop { id: "1".into(), reply: None });
    assert_eq!(protocol.completed("1"), None);
    assert_eq!(protocol.rejected("1", &json!([])), None);
    run(&mut protocol, &subscribe("1"));
}

#[test]
fn complete_of_unknown_id_is_always_ignored() {
    for mut protocol in [opened(Dialect::Transport), transport()] {
        assert_eq!(protocol.on_text(r#"{"type":"complete","id":"1"}"#), Action::Nothing);
    }
}

#[test]
fn rejected_operation_gets_all_errors_no_complete() {
    let mut protocol = transport();
    run(&mut protocol, &subscribe("1"));
    let errors = json!([{"message": "a"}, {"message": "b"}]);
    let frame = protocol.rejected("1", &errors).expect("a frame");
    is_frame(&frame, &json!({"type": "error", "id": "1", "payload": errors}));
    assert_eq!(protocol.completed("1"), None);
    run(&mut protocol, &subscribe("1"));
}

#[test]
fn excess_operation_is_error_and_others_continue() {
    let mut protocol = transport();
    for id in ["1", "2", "3"] {
        run(&mut protocol, &subscribe(id));
    }
    let Action::Refuse(frame) = protocol.on_text(&subscribe("4")) else { panic!("not refused") };
    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    assert_eq!((&frame["type"], &frame["id"]), (&json!("error"), &json!("4")));
    assert_eq!(frame["payload"][0]["extensions"]["code"], "LIMIT_REACHED");
    assert_eq!(protocol.on_text(r#"{"type":"complete","id":"4"}"#), Action::Nothing);
    assert!(protocol.completed("1").is_some());
    run(&mut protocol, &subscribe("4"));
}

#[test]
fn ping_with_token_asks_for_refresh() {
    let ping = r#"{"type":"ping","payload":{"authorization":"Bearer secret"}}"#;
    let mut protocol = transport();
    match protocol.on_text(ping) {
        Action::Refresh { payload } => assert_eq!(token(Some(&payload)), Some("Bearer secret")),
        other => panic!("{other:?}"),
    }
    let mut early = opened(Dialect::Transport);
    assert!(matches!(early.on_text(ping), Action::Write(_)), "there is nothing to extend");
    let answer = Protocol::refreshed(&json!({ "accepted": {} }));
    let expected = json!({ "type": "pong", "payload": { "refresh": { "accepted": {} } } });
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected);
}

#[test]
fn pings_begin_after_acknowledgement() {
    assert_eq!(opened(Dialect::Transport).keep_alive(), None);
    assert_eq!(transport().keep_alive(), Some(r#"{"type":"ping"}"#));
}

#[test]
fn server_frame_from_client_closes_4400() {
    for kind in
        ["next", "error", "connection_ack", "data", "ka", "start", "stop", "connection_terminate", "x"]
    {
        let frame = json!({"type": kind, "id": "1", "payload": {"query": "q"}}).to_string();
        closes(&transport().on_text(&frame), 4400, &format!("clients do not send `{kind}`"));
    }
}

#[test]
fn text_without_object_closes_4400() {
    for text in [
        "",
        " ",
        "{",
        "null",
        "1",
        "\"ping\"",
        "[]",
        r#"["ping",null,null]"#,
        r#"{"type":"ping"}{}"#,
        "\u{feff}{}",
    ] {
        closes(&transport().on_text(text), 4400, "Invalid message: ");
    }
}

#[test]
fn missing_or_mistyped_field_closes_4400() {
    for (text, reason) in [
        (r#"{}"#, "`type` is missing"),
        (r#"{"type":null}"#, "`type` is missing"),
        (r#"{"type":1}"#, "expected a string"),
        (r#"{"type":"ping","type":"ping"}"#, "duplicate field `type`"),
        (r#"{"type":"ping","payload":[]}"#, "ping: payload: not a JSON object"),
        (r#"{"type":"pong","payload":"x"}"#, "pong: payload: not a JSON object"),
        (r#"{"type":"connection_init","payload":"x"}"#, "connection_init: payload: not a JSON object"),
        (r#"{"type":"complete"}"#, "complete: `id` must have 1 to 256 bytes"),
        (r#"{"type":"complete","id":""}"#, "`id` must have"),
        (r#"{"type":"complete","id":1}"#, "expected a string"),
        (r#"{"type":"subscribe","payload":{"query":"q"}}"#, "subscribe: `id` must have"),
        (r#"{"type":"subscribe","id":"","payload":{"query":"q"}}"#, "`id` must have"),
        (r#"{"type":"subscribe","id":"1"}"#, "subscribe: payload: not a JSON object"),
        (r#"{"type":"subscribe","id":"1","payload":null}"#, "not a JSON object"),
        (r#"{"type":"subscribe","id":"1","payload":["q",null,null,null]}"#, "not a JSON object"),
        (r#"{"type":"subscribe","id":"1","payload":{}}"#, "missing field `query`"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":1}}"#, "expected a string"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":"q","operationName":1}}"#, "expected a string"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":"q","variables":[]}}"#, "expected a map"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":"q","variables":"{}"}}"#, "expected a map"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":"q","extensions":1}}"#, "expected a map"),
        (r#"{"type":"subscribe","id":"1","payload":{"query":"q","query":"q"}}"#, "duplicate field `query`"),
    ] {
        closes(&transport().on_text(text), 4400, reason);
    }
}

#[test]
fn id_over_256_bytes_closes_4400() {
    run(&mut transport(), &subscribe(&"i".repeat(256)));
    closes(&transport().on_text(&subscribe(&"i".repeat(257))), 4400, "`id` must have 1 to 256 bytes");
}

#[test]
fn endless_nesting_costs_its_own_frame_only() {
    let bomb = |depth: usize| {
        let variables = format!("{}{}", r#"{"a":"#.repeat(depth), "1") + &"}".repeat(depth);
        format!(r#"{{"type":"subscribe","id":"1","payload":{{"query":"q","variables":{variables}}}}}"#)
    };
    run(&mut transport(), &bomb(100));
    let Action::Write(error) = transport().on_text(&bomb(100_000)) else { panic!("its own error") };
    assert!(error.contains("recursion limit exceeded"), "{error}");
    closes(&transport().on_text(&"[".repeat(100_000)), 4400, "");
    let ping = format!(r#"{{"type":"ping","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    writes(transport().on_text(&ping), &json!({"type": "pong"}));
}
