//! Property tests of all rules together: a naive driver finds no fault, whatever comes in which
//! order.

use proptest::prelude::*;

use super::{
    tests::{INIT, start, subscribe},
    *,
};

/// Driver that follows each action and checks it against its own state.
struct Driver {
    protocol: Protocol,
    running: HashSet<Arc<str>>,
    authenticating: bool,
    acknowledged: bool,
    ended: bool,
}

#[derive(Clone, Debug)]
enum Input {
    Text(String),
    Binary,
    InitTimeout,
    Admit,
    Refuse,
    Complete(String),
    Reject(String),
}

impl Driver {
    const MAX_OPERATIONS: usize = 2;

    fn new(dialect: Dialect) -> Self {
        let protocol = Protocol::new(dialect, Self::MAX_OPERATIONS);
        Self { protocol, running: HashSet::new(), authenticating: false, acknowledged: false, ended: false }
    }

    fn feed(&mut self, input: &Input) {
        match input {
            Input::Text(text) => {
                let action = self.protocol.on_text(text);
                self.act(action);
            }
            Input::Binary => {
                let action = self.protocol.on_binary();
                self.act(action);
            }
            Input::InitTimeout => {
                let action = self.protocol.on_init_timeout();
                self.act(action);
            }
            Input::Admit => {
                let frames = self.protocol.acknowledged(None);
                assert_eq!(
                    !frames.is_empty(),
                    self.authenticating,
                    "acknowledged if and only if it was asked for"
                );
                self.acknowledged |= self.authenticating;
                self.authenticating = false;
                frames.iter().for_each(|frame| self.check_frame(frame));
            }
            Input::Refuse => {
                let (frame, close) = self.protocol.refused("no");
                assert!(!self.ended || frame.is_none());
                if let Some(frame) = frame {
                    self.check_frame(&frame);
                }
                self.on_close(&close);
            }
            Input::Complete(id) => {
                let frame = self.protocol.completed(id);
                self.check_last_frame(id, frame.as_deref());
            }
            Input::Reject(id) => {
                let frame = self.protocol.rejected(id, &json!([{"message": "no"}]));
                self.check_last_frame(id, frame.as_deref());
            }
        }
        assert_eq!(self.protocol.operations, self.running);
        assert!(self.running.len() <= Self::MAX_OPERATIONS);
        assert!(self.acknowledged || self.running.is_empty(), "nothing runs before the viewer is known");
    }

    fn act(&mut self, action: Action) {
        assert!(!self.ended || action == Action::Nothing, "{action:?} after the end");
        match action {
            Action::Nothing | Action::Refresh { .. } => {}
            Action::Write(frame) | Action::Refuse(frame) => self.check_frame(&frame),
            Action::Authenticate { .. } => {
                assert!(!self.authenticating && !self.acknowledged);
                self.authenticating = true;
            }
            Action::Start { id, .. } => assert!(self.running.insert(id)),
            Action::Stop { id, reply } => {
                assert!(self.running.remove(&id));
                reply.iter().for_each(|frame| self.check_frame(frame));
            }
            Action::Restart { id, reply, .. } => {
                assert!(self.running.remove(&id));
                self.check_frame(&reply);
                self.running.insert(id);
            }
            Action::Close(close) => self.on_close(&close),
            Action::Terminate => self.on_close(&Close::new(1000, "")),
        }
    }

    fn on_close(&mut self, close: &Close) {
        assert!(close.reason.len() <= Close::MAX_REASON);
        self.ended = true;
        self.authenticating = false;
        self.running.clear();
    }

    fn check_last_frame(&mut self, id: &str, frame: Option<&str>) {
        assert_eq!(frame.is_some(), self.running.remove(id), "an operation that runs ends with one frame");
        frame.into_iter().for_each(|frame| self.check_frame(frame));
    }

    /// Checks that a frame belongs to the dialect. The last frame of an id must be of an operation
    /// that does not run.
    fn check_frame(&self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).expect("a frame is JSON");
        let kind = frame["type"].as_str().expect("a frame has a type");
        let known: &[&str] = match self.protocol.dialect {
            Dialect::Transport => &["connection_ack", "pong", "error", "complete"],
            Dialect::Legacy => &["connection_ack", "connection_error", "ka", "error", "complete"],
        };
        assert!(known.contains(&kind), "a server does not send {kind}");
        if let Some(id) = frame["id"].as_str() {
            assert!(!self.running.contains(id), "{kind} of an operation that runs");
        }
    }
}

const KINDS: [&str; 16] = [
    "connection_init",
    "connection_ack",
    "connection_error",
    "connection_terminate",
    "subscribe",
    "start",
    "next",
    "data",
    "error",
    "complete",
    "stop",
    "ping",
    "pong",
    "ka",
    "",
    "\u{1F41D}",
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!({"query": "{ a }"})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("query|variables|token|[a-z]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Generates few ids, so that they collide.
fn id() -> impl Strategy<Value = String> {
    "[1-4]"
}

fn good_frame() -> impl Strategy<Value = String> {
    (prop::sample::select(&KINDS[..]), id())
        .prop_map(|(kind, id)| json!({"type": kind, "id": id, "payload": {"query": "{ a }"}}).to_string())
}

fn odd_frame() -> impl Strategy<Value = String> {
    let kind = prop_oneof![4 => prop::sample::select(&KINDS[..]).prop_map(Value::from), 1 => json_value()];
    let id = prop_oneof![4 => id().prop_map(Value::from), 1 => json_value()];
    (kind, id, json_value())
        .prop_map(|(kind, id, payload)| json!({"type": kind, "id": id, "payload": payload}).to_string())
}

/// Generates a frame with one character replaced, or cut short.
fn damaged_frame() -> impl Strategy<Value = String> {
    (good_frame(), any::<prop::sample::Index>(), any::<Option<char>>()).prop_map(
        |(frame, at, replacement)| {
            let mut chars: Vec<char> = frame.chars().collect();
            let at = at.index(chars.len());
            match replacement {
                Some(replacement) => chars[at] = replacement,
                None => chars.truncate(at),
            }
            chars.into_iter().collect()
        },
    )
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        16 => good_frame().prop_map(Input::Text),
        4 => Just(Input::Text(INIT.to_owned())),
        4 => Just(Input::Admit),
        4 => id().prop_map(Input::Complete),
        4 => id().prop_map(Input::Reject),
        2 => odd_frame().prop_map(Input::Text),
        1 => Just(Input::InitTimeout),
        1 => Just(Input::Refuse),
        1 => Just(Input::Binary),
    ]
}

fn dialect() -> impl Strategy<Value = Dialect> {
    prop_oneof![Just(Dialect::Transport), Just(Dialect::Legacy)]
}

proptest! {
    #[test]
    fn no_text_breaks_any_rule(dialect in dialect(), text in prop_oneof![any::<String>(), odd_frame(), damaged_frame()]) {
        Driver::new(dialect).feed(&Input::Text(text.clone()));
        let mut driver = Driver::new(dialect);
        for input in [Input::Text(INIT.to_owned()), Input::Admit, Input::Text(text)] {
            driver.feed(&input);
        }
    }

    #[test]
    fn no_sequence_breaks_any_rule(dialect in dialect(), inputs in prop::collection::vec(input(), 0..40)) {
        let mut driver = Driver::new(dialect);
        inputs.iter().for_each(|input| driver.feed(input));
    }

    #[test]
    fn valid_conversation_never_ends_connection(
        dialect in dialect(),
        steps in prop::collection::vec((0..5, id()), 0..200),
    ) {
        let mut driver = Driver::new(dialect);
        driver.feed(&Input::Text(INIT.to_owned()));
        driver.feed(&Input::Admit);
        for (step, id) in steps {
            driver.feed(&match (step, dialect) {
                (0, Dialect::Transport) => Input::Text(json!({"type": "complete", "id": id}).to_string()),
                (0, Dialect::Legacy) => Input::Text(json!({"type": "stop", "id": id}).to_string()),
                (1, _) => Input::Complete(id),
                (2, _) => Input::Reject(id),
                (_, Dialect::Transport) if driver.running.contains(&*id) => continue,
                (_, Dialect::Transport) => Input::Text(subscribe(&id)),
                (_, Dialect::Legacy) => Input::Text(start(&id)),
            });
            assert!(!driver.ended);
        }
    }
}
