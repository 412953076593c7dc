//! The rules one by one: a test for each row of either PROTOCOL.md, and for what their libraries do beyond it.

use super::*;

pub(super) const INIT: &str = r#"{"type":"connection_init"}"#;
const DOCUMENT: &str = "subscription { templateAdded { id } }";

fn opened(dialect: Dialect) -> Protocol {
    Protocol::new(dialect, 3)
}

fn admitted(dialect: Dialect) -> Protocol {
    let mut protocol = opened(dialect);
    assert_eq!(protocol.on_text(INIT), Action::Authenticate { payload: None });
    assert!(!protocol.admitted(None).is_empty());
    protocol
}

fn transport() -> Protocol {
    admitted(Dialect::Transport)
}

fn legacy() -> Protocol {
    admitted(Dialect::Legacy)
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

mod both_dialects {
    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Transport, Dialect::Legacy];

    #[test]
    fn the_names_of_the_handshake_are_the_dialects() {
        assert_eq!(Dialect::NAMES.map(Dialect::parse), BOTH.map(Some));
        assert_eq!(Dialect::parse("graphql-subscriptions"), None);
    }

    #[test]
    fn an_init_that_does_not_come_in_time_closes_4408() {
        for dialect in BOTH {
            closes(&opened(dialect).on_init_timeout(), 4408, "Connection initialisation timeout");
        }
    }

    #[test]
    fn the_timeout_is_for_the_init_not_for_its_answer() {
        for dialect in BOTH {
            let mut protocol = opened(dialect);
            protocol.on_text(INIT);
            assert_eq!(protocol.on_init_timeout(), Action::Nothing);
            assert_eq!(admitted(dialect).on_init_timeout(), Action::Nothing);
        }
    }

    #[test]
    fn a_second_init_closes_4429_answered_or_not() {
        for dialect in BOTH {
            let mut waiting = opened(dialect);
            waiting.on_text(INIT);
            for mut protocol in [waiting, admitted(dialect)] {
                closes(&protocol.on_text(INIT), 4429, "Too many initialisation requests");
            }
        }
    }

    #[test]
    fn bytes_close_4400() {
        for dialect in BOTH {
            closes(&admitted(dialect).on_binary(), 4400, "only text");
        }
    }

    #[test]
    fn nobody_is_acknowledged_without_having_asked() {
        for dialect in BOTH {
            assert!(opened(dialect).admitted(None).is_empty());
            assert!(admitted(dialect).admitted(None).is_empty());
            let mut ended = opened(dialect);
            ended.on_init_timeout();
            assert!(ended.admitted(None).is_empty());
        }
    }

    #[test]
    fn the_acknowledgement_carries_what_the_driver_has_to_say() {
        for dialect in BOTH {
            let mut protocol = opened(dialect);
            protocol.on_text(INIT);
            let frames = protocol.admitted(Some(&json!({"cursor": "c1"})));
            is_frame(&frames[0], &json!({"type": "connection_ack", "payload": {"cursor": "c1"}}));
        }
    }

    #[test]
    fn after_the_end_nothing_is_answered() {
        for dialect in BOTH {
            let mut protocol = admitted(dialect);
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
    fn a_request_keeps_all_its_parts() {
        for (dialect, kind) in [(Dialect::Transport, "subscribe"), (Dialect::Legacy, "start")] {
            let payload =
                json!({"query": "q", "operationName": "n", "variables": {"a": [1]}, "extensions": {"b": 2}});
            let frame = json!({"id": "1", "type": kind, "payload": payload}).to_string();
            let (_, _, request) = run(&mut admitted(dialect), &frame);
            assert_eq!(request.query, "q");
            assert_eq!(request.operation_name.as_deref(), Some("n"));
            assert_eq!(request.variables.map(Value::from), Some(json!({"a": [1]})));
            assert_eq!(request.extensions.map(Value::from), Some(json!({"b": 2})));
        }
    }

    #[test]
    fn null_is_as_good_as_absent_and_unknown_fields_are_not_looked_at() {
        for (dialect, kind) in [(Dialect::Transport, "subscribe"), (Dialect::Legacy, "start")] {
            let payload = json!({"query": "q", "operationName": null, "variables": null, "extensions": null, "x": [{}]});
            let frame = json!({"id": "1", "type": kind, "payload": payload, "y": {}}).to_string();
            let (_, _, request) = run(&mut admitted(dialect), &frame);
            let plain =
                Request { query: "q".into(), operation_name: None, variables: None, extensions: None };
            assert_eq!(request, plain);
            let init = r#"{"type":"connection_init","payload":null,"id":null}"#;
            assert_eq!(opened(dialect).on_text(init), Action::Authenticate { payload: None });
        }
    }

    #[test]
    fn a_token_is_found_under_each_of_its_names_in_their_order() {
        let payload = |value: Value| value.as_object().cloned();
        let found = |value: Value| token(payload(value).as_ref()).map(str::to_owned);
        assert_eq!(
            found(json!({"token": "a", "Authorization": "b", "authorization": "c"})).as_deref(),
            Some("a")
        );
        assert_eq!(found(json!({"Authorization": "b", "authorization": "c"})).as_deref(), Some("b"));
        assert_eq!(found(json!({"token": 1, "authorization": "c"})).as_deref(), Some("c"));
        assert_eq!(found(json!({"token": null})), None);
        assert_eq!(token(None), None);
    }

    #[test]
    fn a_result_is_its_head_and_its_payload_whatever_the_id() {
        for (dialect, frame, kind) in [
            (Dialect::Transport, subscribe("a\"\\\n\u{1F41D}"), "next"),
            (Dialect::Legacy, start("a\"\\\n\u{1F41D}"), "data"),
        ] {
            let (id, head, _) = run(&mut admitted(dialect), &frame);
            let text = format!(r#"{head}{{"data":{{"a":1}}}}{TAIL}"#);
            is_frame(&text, &json!({"type": kind, "id": *id, "payload": {"data": {"a": 1}}}));
        }
    }

    #[test]
    fn no_reason_to_close_is_longer_than_a_close_frame_takes() {
        let long = "\u{1F41D}".repeat(64);
        let mut protocol = transport();
        run(&mut protocol, &subscribe(&long));
        closes(&protocol.on_text(&subscribe(&long)), 4409, "\u{1F41D} already exists");
        closes(&transport().on_text(&json!({"type": long}).to_string()), 4400, "\u{1F41D}");
        let (_, close) = transport().refused(&long);
        closes(&Action::Close(close), 4403, "Forbidden: \u{1F41D}");
    }
}

mod graphql_transport_ws {
    use super::*;

    #[test]
    fn an_init_is_answered_by_an_acknowledgement_and_no_more() {
        let mut protocol = opened(Dialect::Transport);
        let payload = json!({"token": "Bearer ZOWI"}).as_object().cloned();
        let init = r#"{"type":"connection_init","payload":{"token":"Bearer ZOWI"}}"#;
        assert_eq!(protocol.on_text(init), Action::Authenticate { payload });
        assert_eq!(protocol.admitted(None), [r#"{"type":"connection_ack"}"#]);
    }

    #[test]
    fn a_viewer_who_is_not_let_in_is_closed_4403_without_a_frame() {
        let mut protocol = opened(Dialect::Transport);
        protocol.on_text(INIT);
        let (frame, close) = protocol.refused("the token has expired");
        assert_eq!(frame, None);
        assert_eq!((close.code, &*close.reason), (4403, "Forbidden: the token has expired"));
        assert_eq!(protocol.on_text(INIT), Action::Nothing);
    }

    #[test]
    fn subscribe_before_the_acknowledgement_closes_4401() {
        closes(&opened(Dialect::Transport).on_text(&subscribe("1")), 4401, "Unauthorized");
        let mut waiting = opened(Dialect::Transport);
        waiting.on_text(INIT);
        closes(&waiting.on_text(&subscribe("1")), 4401, "Unauthorized");
    }

    #[test]
    fn a_ping_is_answered_by_a_pong_with_its_payload_at_any_time() {
        for mut protocol in [opened(Dialect::Transport), transport()] {
            writes(protocol.on_text(r#"{"type":"ping"}"#), &json!({"type": "pong"}));
            writes(protocol.on_text(r#"{"type":"ping","payload":null}"#), &json!({"type": "pong"}));
            let echoed = protocol.on_text(r#"{"payload": {"at": 1e400, "x": [ ]}, "type": "ping"}"#);
            assert_eq!(
                echoed,
                Action::Write(r#"{"type":"pong","payload":{"at": 1e400, "x": [ ]}}"#.to_owned())
            );
        }
    }

    #[test]
    fn a_pong_is_taken_in_silence_at_any_time() {
        for mut protocol in [opened(Dialect::Transport), transport()] {
            assert_eq!(protocol.on_text(r#"{"type":"pong"}"#), Action::Nothing);
            assert_eq!(protocol.on_text(r#"{"type":"pong","payload":{"a":1}}"#), Action::Nothing);
        }
    }

    #[test]
    fn subscribe_starts_the_operation_under_its_id() {
        let (id, head, request) = run(&mut transport(), &subscribe("1"));
        assert_eq!((&*id, &*head), ("1", r#"{"type":"next","id":"1","payload":"#));
        assert_eq!(request.query, DOCUMENT);
    }

    #[test]
    fn an_id_in_use_closes_4409() {
        let mut protocol = transport();
        run(&mut protocol, &subscribe("1"));
        run(&mut protocol, &subscribe("2"));
        closes(&protocol.on_text(&subscribe("1")), 4409, "Subscriber for 1 already exists");
    }

    #[test]
    fn an_operation_that_ends_by_itself_is_completed_once_and_its_id_is_free() {
        let mut protocol = transport();
        run(&mut protocol, &subscribe("1"));
        is_frame(&protocol.completed("1").expect("a frame"), &json!({"type": "complete", "id": "1"}));
        assert_eq!(protocol.completed("1"), None);
        run(&mut protocol, &subscribe("1"));
    }

    #[test]
    fn the_complete_of_the_client_is_not_echoed_and_frees_the_id() {
        let mut protocol = transport();
        run(&mut protocol, &subscribe("1"));
        let complete = r#"{"type":"complete","id":"1"}"#;
        assert_eq!(protocol.on_text(complete), Action::Stop { id: "1".into(), reply: None });
        assert_eq!(protocol.completed("1"), None);
        assert_eq!(protocol.rejected("1", &json!([])), None);
        run(&mut protocol, &subscribe("1"));
    }

    #[test]
    fn the_complete_of_an_unknown_id_is_ignored_at_any_time() {
        for mut protocol in [opened(Dialect::Transport), transport()] {
            assert_eq!(protocol.on_text(r#"{"type":"complete","id":"1"}"#), Action::Nothing);
        }
    }

    #[test]
    fn an_operation_that_cannot_run_is_an_error_with_all_its_errors_and_no_complete() {
        let mut protocol = transport();
        run(&mut protocol, &subscribe("1"));
        let errors = json!([{"message": "a"}, {"message": "b"}]);
        let frame = protocol.rejected("1", &errors).expect("a frame");
        is_frame(&frame, &json!({"type": "error", "id": "1", "payload": errors}));
        assert_eq!(protocol.completed("1"), None);
        run(&mut protocol, &subscribe("1"));
    }

    #[test]
    fn one_operation_too_many_is_an_error_and_the_others_live_on() {
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
    fn it_has_no_keep_alive_of_its_own() {
        assert_eq!(transport().keep_alive(), None);
    }

    #[test]
    fn the_frames_of_a_server_close_4400_when_a_client_sends_them() {
        for kind in
            ["next", "error", "connection_ack", "data", "ka", "start", "stop", "connection_terminate", "x"]
        {
            let frame = json!({"type": kind, "id": "1", "payload": {"query": "q"}}).to_string();
            closes(&transport().on_text(&frame), 4400, &format!("clients do not send `{kind}`"));
        }
    }

    #[test]
    fn what_is_not_an_object_closes_4400() {
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
    fn a_missing_or_mistyped_field_closes_4400() {
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
            (
                r#"{"type":"subscribe","id":"1","payload":{"query":"q","operationName":1}}"#,
                "expected a string",
            ),
            (r#"{"type":"subscribe","id":"1","payload":{"query":"q","variables":[]}}"#, "expected a map"),
            (r#"{"type":"subscribe","id":"1","payload":{"query":"q","variables":"{}"}}"#, "expected a map"),
            (r#"{"type":"subscribe","id":"1","payload":{"query":"q","extensions":1}}"#, "expected a map"),
            (
                r#"{"type":"subscribe","id":"1","payload":{"query":"q","query":"q"}}"#,
                "duplicate field `query`",
            ),
        ] {
            closes(&transport().on_text(text), 4400, reason);
        }
    }

    #[test]
    fn an_id_of_256_bytes_is_taken_and_a_longer_one_closes_4400() {
        run(&mut transport(), &subscribe(&"i".repeat(256)));
        closes(&transport().on_text(&subscribe(&"i".repeat(257))), 4400, "`id` must have 1 to 256 bytes");
    }

    #[test]
    fn what_nests_without_end_closes_4400() {
        let bomb = |depth: usize| {
            let variables = format!("{}{}", r#"{"a":"#.repeat(depth), "1") + &"}".repeat(depth);
            format!(r#"{{"type":"subscribe","id":"1","payload":{{"query":"q","variables":{variables}}}}}"#)
        };
        run(&mut transport(), &bomb(100));
        closes(&transport().on_text(&bomb(100_000)), 4400, "recursion limit exceeded");
        closes(&transport().on_text(&"[".repeat(100_000)), 4400, "");
        let ping = format!(r#"{{"type":"ping","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        writes(transport().on_text(&ping), &json!({"type": "pong"}));
    }
}

mod legacy_graphql_ws {
    use super::*;

    #[test]
    fn an_init_is_answered_by_an_acknowledgement_and_a_keep_alive() {
        let mut protocol = opened(Dialect::Legacy);
        assert_eq!(
            protocol.on_text(r#"{"type":"connection_init","payload":{}}"#),
            Action::Authenticate { payload: Some(Map::new()) }
        );
        assert_eq!(protocol.admitted(None), [r#"{"type":"connection_ack"}"#, r#"{"type":"ka"}"#]);
    }

    #[test]
    fn keep_alives_begin_with_the_acknowledgement() {
        assert_eq!(opened(Dialect::Legacy).keep_alive(), None);
        assert_eq!(legacy().keep_alive().as_deref(), Some(r#"{"type":"ka"}"#));
    }

    #[test]
    fn a_viewer_who_is_not_let_in_is_told_by_connection_error_before_the_close() {
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
    fn start_before_the_acknowledgement_is_an_error_and_nothing_runs() {
        let mut protocol = opened(Dialect::Legacy);
        let payload = json!({"message": "Unauthorized", "extensions": {"code": "UNAUTHENTICATED"}});
        writes(protocol.on_text(&start("1")), &json!({"type": "error", "id": "1", "payload": payload}));
        assert_eq!(protocol.completed("1"), None);
        assert_eq!(protocol.on_text(INIT), Action::Authenticate { payload: None });
    }

    #[test]
    fn start_starts_the_operation_under_its_id() {
        let (id, head, request) = run(&mut legacy(), &start("1"));
        assert_eq!((&*id, &*head), ("1", r#"{"type":"data","id":"1","payload":"#));
        assert_eq!(request.query, DOCUMENT);
    }

    #[test]
    fn start_with_an_id_in_use_completes_the_old_operation_and_runs_the_new_one() {
        let mut protocol = legacy();
        run(&mut protocol, &start("1"));
        let Action::Restart { id, reply, head, request } = protocol.on_text(&start("1")) else {
            panic!("not restarted");
        };
        assert_eq!((&*id, &*head), ("1", r#"{"type":"data","id":"1","payload":"#));
        is_frame(&reply, &json!({"type": "complete", "id": "1"}));
        assert_eq!(request.query, DOCUMENT);
        assert!(protocol.completed("1").is_some());
        assert_eq!(protocol.completed("1"), None);
    }

    #[test]
    fn stop_is_answered_by_complete_and_frees_the_id() {
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
    fn stop_of_an_unknown_id_is_ignored() {
        assert_eq!(legacy().on_text(r#"{"type":"stop","id":"1"}"#), Action::Nothing);
    }

    #[test]
    fn an_operation_that_ends_by_itself_is_completed_once_and_its_id_is_free() {
        let mut protocol = legacy();
        run(&mut protocol, &start("1"));
        is_frame(&protocol.completed("1").expect("a frame"), &json!({"type": "complete", "id": "1"}));
        assert_eq!(protocol.completed("1"), None);
        run(&mut protocol, &start("1"));
    }

    #[test]
    fn an_operation_that_cannot_run_is_an_error_with_one_object_and_no_complete() {
        let mut protocol = legacy();
        run(&mut protocol, &start("1"));
        let frame = protocol.rejected("1", &json!([{"message": "a"}, {"message": "b"}])).expect("a frame");
        is_frame(&frame, &json!({"type": "error", "id": "1", "payload": {"message": "a"}}));
        assert_eq!(protocol.completed("1"), None);
    }

    #[test]
    fn one_operation_too_many_is_an_error_and_the_others_live_on() {
        let mut protocol = legacy();
        for id in ["1", "2", "3"] {
            run(&mut protocol, &start(id));
        }
        let Action::Refuse(frame) = protocol.on_text(&start("4")) else { panic!("not refused") };
        let frame: Value = serde_json::from_str(&frame).expect("JSON");
        assert_eq!(frame["payload"]["extensions"]["code"], "LIMIT_REACHED");
        assert!(matches!(protocol.on_text(&start("3")), Action::Restart { .. }), "which adds none");
    }

    #[test]
    fn connection_terminate_ends_the_connection_at_any_time() {
        for mut protocol in [opened(Dialect::Legacy), legacy()] {
            assert_eq!(protocol.on_text(r#"{"type":"connection_terminate"}"#), Action::Terminate);
            assert_eq!(protocol.on_text(INIT), Action::Nothing);
        }
    }

    #[test]
    fn what_is_not_an_object_is_a_connection_error_and_the_connection_lives_on() {
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
    fn an_unknown_type_is_an_error_and_the_connection_lives_on() {
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
    fn start_without_a_request_or_an_id_is_an_error_and_the_connection_lives_on() {
        let mut protocol = legacy();
        let answer = protocol.on_text(r#"{"type":"start","id":"1"}"#);
        let payload =
            json!({"message": "start: payload: not a JSON object", "extensions": {"code": "BAD_REQUEST"}});
        writes(answer, &json!({"type": "error", "id": "1", "payload": payload}));
        for text in
            [r#"{"type":"start","payload":{"query":"q"}}"#.to_owned(), start(""), start(&"i".repeat(257))]
        {
            let code = json!({"code": "BAD_REQUEST"});
            let payload = json!({"message": "start: `id` must have 1 to 256 bytes", "extensions": code});
            writes(protocol.on_text(&text), &json!({"type": "error", "payload": payload}));
        }
    }

    #[test]
    fn an_error_is_the_last_that_is_said_of_an_id_that_was_in_use() {
        let mut protocol = legacy();
        run(&mut protocol, &start("1"));
        let Action::Stop { id, reply } = protocol.on_text(r#"{"type":"start","id":"1"}"#) else {
            panic!("not stopped");
        };
        assert_eq!(&*id, "1");
        assert!(reply.is_some_and(|frame| frame.contains(r#""type":"error""#)));
        assert_eq!(protocol.completed("1"), None);
    }
}
