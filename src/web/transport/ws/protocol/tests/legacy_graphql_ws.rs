//! Tests of the older dialect, `graphql-ws`.

use super::*;

#[test]
fn init_gets_acknowledgement_and_keep_alive() {
    let mut protocol = opened(Dialect::Legacy);
    assert_eq!(
        protocol.on_text(r#"{"type":"connection_init","payload":{}}"#),
        Action::Authenticate { payload: Some(Map::new()) }
    );
    assert_eq!(protocol.acknowledged(None), [r#"{"type":"connection_ack"}"#, r#"{"type":"ka"}"#]);
}

#[test]
fn keep_alives_begin_with_acknowledgement() {
    assert_eq!(opened(Dialect::Legacy).keep_alive(), None);
    assert_eq!(legacy().keep_alive(), Some(r#"{"type":"ka"}"#));
}

#[test]
fn refused_viewer_gets_connection_error_before_close() {
    let mut protocol = opened(Dialect::Legacy);
    protocol.on_text(INIT);
    let (frame, close) = protocol.refused("the token has expired");
    is_frame(
        &frame.expect("a frame"),
        &json!({"type": "connection_error", "payload": {"message": "the token has expired"}}),
    );
    assert_eq!(close.code, 4403);
}

#[test]
fn start_before_acknowledgement_is_error_without_operation() {
    let mut protocol = opened(Dialect::Legacy);
    let payload = json!({"message": "Unauthorized", "extensions": {"code": "UNAUTHENTICATED"}});
    writes(protocol.on_text(&start("1")), &json!({"type": "error", "id": "1", "payload": payload}));
    assert_eq!(protocol.completed("1"), None);
    assert_eq!(protocol.on_text(INIT), Action::Authenticate { payload: None });
}

#[test]
fn start_starts_operation_under_its_id() {
    let (id, head, request) = run(&mut legacy(), &start("1"));
    assert_eq!((&*id, &*head), ("1", r#"{"type":"data","id":"1","payload":"#));
    assert_eq!(request.query.as_deref(), Some(DOCUMENT));
}

#[test]
fn start_with_id_in_use_restarts_operation() {
    let mut protocol = legacy();
    run(&mut protocol, &start("1"));
    let Action::Restart { id, reply, head, request } = protocol.on_text(&start("1")) else {
        panic!("not restarted");
    };
    assert_eq!((&*id, &*head), ("1", r#"{"type":"data","id":"1","payload":"#));
    is_frame(&reply, &json!({"type": "complete", "id": "1"}));
    assert_eq!(request.query.as_deref(), Some(DOCUMENT));
    assert!(protocol.completed("1").is_some());
    assert_eq!(protocol.completed("1"), None);
}

#[test]
fn stop_gets_complete_and_frees_id() {
    let mut protocol = legacy();
    run(&mut protocol, &start("1"));
    let Action::Stop { id, reply } = protocol.on_text(r#"{"type":"stop","id":"1"}"#) else {
        panic!("not stopped");
    };
    assert_eq!(&*id, "1");
    is_frame(&reply.expect("a frame"), &json!({"type": "complete", "id": "1"}));
    assert_eq!(protocol.completed("1"), None);
    run(&mut protocol, &start("1"));
}

#[test]
fn stop_of_unknown_id_is_ignored() {
    assert_eq!(legacy().on_text(r#"{"type":"stop","id":"1"}"#), Action::Nothing);
}

#[test]
fn ended_operation_completes_once_and_frees_id() {
    let mut protocol = legacy();
    run(&mut protocol, &start("1"));
    is_frame(&protocol.completed("1").expect("a frame"), &json!({"type": "complete", "id": "1"}));
    assert_eq!(protocol.completed("1"), None);
    run(&mut protocol, &start("1"));
}

#[test]
fn rejected_operation_gets_one_error_no_complete() {
    let mut protocol = legacy();
    run(&mut protocol, &start("1"));
    let frame = protocol.rejected("1", &json!([{"message": "a"}, {"message": "b"}])).expect("a frame");
    is_frame(&frame, &json!({"type": "error", "id": "1", "payload": {"message": "a"}}));
    assert_eq!(protocol.completed("1"), None);
}

#[test]
fn excess_operation_is_error_and_others_continue() {
    let mut protocol = legacy();
    for id in ["1", "2", "3"] {
        run(&mut protocol, &start(id));
    }
    let Action::Refuse(frame) = protocol.on_text(&start("4")) else { panic!("not refused") };
    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    assert_eq!(frame["payload"]["extensions"]["code"], "LIMIT_REACHED");
    assert!(matches!(protocol.on_text(&start("3")), Action::Restart { .. }), "a restart adds no operation");
}

#[test]
fn connection_terminate_always_ends_connection() {
    for mut protocol in [opened(Dialect::Legacy), legacy()] {
        assert_eq!(protocol.on_text(r#"{"type":"connection_terminate"}"#), Action::Terminate);
        assert_eq!(protocol.on_text(INIT), Action::Nothing);
    }
}

#[test]
fn text_without_object_is_error_and_connection_continues() {
    let mut protocol = legacy();
    for text in ["{", "null", "5", "[]", r#"{"type":1}"#] {
        let Action::Write(frame) = protocol.on_text(text) else { panic!("{text} was not answered") };
        let frame: Value = serde_json::from_str(&frame).expect("JSON");
        assert_eq!(frame["type"], "connection_error");
        assert!(frame["payload"]["message"].is_string());
    }
    run(&mut protocol, &start("1"));
}

#[test]
fn unknown_type_is_error_and_connection_continues() {
    let mut protocol = legacy();
    let payload = json!({"message": "Invalid message type!", "extensions": {"code": "BAD_REQUEST"}});
    for kind in ["subscribe", "ping", "pong", "complete", "data", "ka", "connection_ack", "init"] {
        let frame = json!({"type": kind, "id": "1"}).to_string();
        writes(protocol.on_text(&frame), &json!({"type": "error", "id": "1", "payload": payload}));
    }
    writes(protocol.on_text("{}"), &json!({"type": "error", "payload": payload}));
    run(&mut protocol, &start("1"));
}

#[test]
fn start_without_request_or_id_is_error() {
    let mut protocol = legacy();
    let answer = protocol.on_text(r#"{"type":"start","id":"1"}"#);
    let payload =
        json!({"message": "start: payload: not a JSON object", "extensions": {"code": "BAD_REQUEST"}});
    writes(answer, &json!({"type": "error", "id": "1", "payload": payload}));
    for text in [r#"{"type":"start","payload":{"query":"q"}}"#.to_owned(), start(""), start(&"i".repeat(257))]
    {
        let code = json!({"code": "BAD_REQUEST"});
        let payload = json!({"message": "start: `id` must have 1 to 256 bytes", "extensions": code});
        writes(protocol.on_text(&text), &json!({"type": "error", "payload": payload}));
    }
}

#[test]
fn error_is_last_frame_for_used_id() {
    let mut protocol = legacy();
    run(&mut protocol, &start("1"));
    let Action::Stop { id, reply } = protocol.on_text(r#"{"type":"start","id":"1"}"#) else {
        panic!("not stopped");
    };
    assert_eq!(&*id, "1");
    assert!(reply.is_some_and(|frame| frame.contains(r#""type":"error""#)));
    assert_eq!(protocol.completed("1"), None);
}
