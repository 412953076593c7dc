//! [`Question`] and [`PodAnswer`]: what pods ask and answer, and their JSON form on the topic.
//!
//! A question names its user by id alone. Answers hold no names and no payloads. Data that is out
//! of bounds is refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    event::{Event, PODS},
    hub::Answer,
    membership::sender,
};

/// Kind of questions.
const QUESTION: &str = "relay.question.v1";

/// Kind of answers.
const ANSWER: &str = "relay.answer.v1";

/// Beginning of the kinds of questions of all releases.
pub(super) const QUESTIONS: &str = "relay.question.";

/// Beginning of the kinds of answers of all releases.
pub(super) const ANSWERS: &str = "relay.answer.";

/// Longest name of an event or a user, in bytes. A question with a longer one is refused.
const MAX_NAME: usize = 2_048;

/// Most stays of an answer. Further ones are dropped.
const MAX_STAYS: usize = 16;

/// Longest data of a question or an answer, in bytes. Longer data is refused.
const MAX_DATA: usize = 32 << 10;

/// Question of one pod to all others: why did the user receive the event, or not?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Name of the pod that asks.
    pub pod: Arc<str>,
    /// Identity of the event.
    pub event: Arc<str>,
    /// Id of the user.
    pub user: Arc<str>,
}

/// Answer of one pod. Times are milliseconds since 1970 by the topic's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAnswer {
    /// Name of the pod that answers.
    pub pod: Arc<str>,
    /// Why the user received the event there, or did not.
    pub answer: Answer,
    /// Time at which the event came through the pod's feed; `None`: the pod does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Open connections of the user, and then those that ended lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<Stay>,
    /// Gap notice that the user received there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// Time in which a connection of the user watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// Transport of the connection.
    pub transport: Arc<str>,
    /// Time at which its first watcher began.
    pub began: u64,
    /// Whether it began with what the client had missed.
    #[serde(default)]
    pub resumed: bool,
    /// Time of its end; `None`: it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Reason of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// Gap notice that the user received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Reason that the client read.
    pub reason: Arc<str>,
    /// Time at which the user received it.
    pub at: u64,
}

/// Answer with the id of its question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) question: Arc<str>,
    pub(super) answer: PodAnswer,
}

impl Question {
    /// Returns a new event that carries the question.
    pub(super) fn event(&self) -> Event {
        event(&self.pod, QUESTION, self)
    }

    /// Reads the question in an event; `None` if it holds none.
    pub(super) fn read(event: &Event) -> Option<Self> {
        let question: Self = data(event, QUESTION)?;
        let is_name = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
        let is_sound = is_name(&question.event) && is_name(&question.user);
        (is_sound && sender(event)? == question.pod).then_some(question)
    }
}

impl Answered {
    /// Returns a new event that carries the answer.
    pub(super) fn event(&self) -> Event {
        event(&self.answer.pod, ANSWER, self)
    }

    /// Reads the answer in an event; `None` if it holds none.
    pub(super) fn read(event: &Event) -> Option<Self> {
        let mut answered: Self = data(event, ANSWER)?;
        answered.answer.stays.truncate(MAX_STAYS);
        (sender(event)? == answered.answer.pod).then_some(answered)
    }
}

fn event(pod: &str, kind: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_vec(data).expect("names and numbers have a JSON form");
    Event::new(format!("{PODS}{pod}").into(), kind, None, data.into())
}

fn data<T: DeserializeOwned>(event: &Event, kind: &str) -> Option<T> {
    let is_sound = *event.kind == *kind && event.data.len() <= MAX_DATA;
    is_sound.then(|| serde_json::from_slice(&event.data).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(event: &str) -> Question {
        Question { pod: "a".into(), event: event.into(), user: "1".into() }
    }

    #[test]
    fn question_and_answer_survive_round_trip() {
        let event = question("e").event();
        assert_eq!(Question::read(&event), Some(question("e")));
        let stay = Stay {
            transport: "ws".into(),
            began: 1,
            resumed: true,
            ended: Some(2),
            reason: Some("left".into()),
        };
        let gap = Some(Gap { reason: "FEED_LOST".into(), at: 3 });
        let answer = PodAnswer {
            pod: "b".into(),
            answer: Answer::Told,
            received: Some(1),
            stays: vec![stay; 20],
            gap,
        };
        let answered = Answered { question: "q".into(), answer: answer.clone() };
        let read = Answered::read(&answered.event()).unwrap();
        assert_eq!((&*read.question, read.answer.stays.len()), ("q", MAX_STAYS));
        assert_eq!(PodAnswer { stays: answer.stays.clone(), ..read.answer }, answer);
    }

    #[test]
    fn answer_of_newer_release_is_read() {
        let data = r#"{"question":"q","answer":{"pod":"b","answer":"EATEN_BY_A_FUTURE_RULE","x":1}}"#;
        let event = Event::new("/pods/b".into(), ANSWER, None, data.into());
        assert_eq!(Answered::read(&event).unwrap().answer.answer, Answer::Other);
    }

    #[test]
    fn garbage_is_not_read() {
        let long = "x".repeat(MAX_NAME + 1);
        for event in [question("").event(), question(&long).event()] {
            assert_eq!(Question::read(&event), None);
        }
        for data in ["", "[]", "{}", r#"{"pod":"a","event":1,"user":"1"}"#] {
            let event = Event::new("/pods/a".into(), QUESTION, None, data.into());
            assert_eq!(Question::read(&event), None, "{data}");
        }
        let of_other = Event { source: "/pods/b".into(), ..question("e").event() };
        assert_eq!(Question::read(&of_other), None, "a pod asks for itself");
    }
}
