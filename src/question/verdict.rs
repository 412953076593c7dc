//! [`verdicts`]: joins the answers of all pods, and puts each into one plain sentence.
//!
//! One pod alone cannot know where a client went after it. The joined answers show it. This file is
//! pure.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::wire::{PodAnswer, Stay};
use crate::{hub::Answer, rfc3339};

/// Largest error between the clocks of two pods, in milliseconds. A client may seem to have come
/// back before it left.
const CLOCK_ERROR: u64 = 2_000;

/// Answer of one pod, joined with those of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Why the user received the event there, or did not.
    pub answer: Answer,
    /// Pod on which the user resumed after the last connection here had ended, and the time.
    pub resumed: Option<(Arc<str>, u64)>,
    /// The same in words.
    pub sentence: String,
}

/// Returns the verdict for each answer, sorted by the names of the pods.
#[must_use]
pub fn verdicts(answers: &[PodAnswer]) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = answers.iter().map(|own| verdict(own, answers)).collect();
    verdicts.sort_by(|a, b| a.pod.cmp(&b.pod));
    verdicts
}

fn verdict(own: &PodAnswer, all: &[PodAnswer]) -> Verdict {
    let resumed = last_end(own).and_then(|(ended, _)| resumed_after(ended, own, all));
    let answer = match own.answer {
        Answer::NotConnected if resumed.is_some() => Answer::ResumedElsewhere,
        answer => answer,
    };
    let sentence = format!("{} {}.", own.pod, words(answer, own, resumed.as_ref()));
    Verdict { pod: own.pod.clone(), answer, resumed, sentence }
}

/// Returns the end of the user's last connection, if none is open.
fn last_end(answer: &PodAnswer) -> Option<(u64, &Stay)> {
    if answer.stays.iter().any(|stay| stay.ended.is_none()) {
        return None;
    }
    answer.stays.iter().filter_map(|stay| Some((stay.ended?, stay))).max_by_key(|(ended, _)| *ended)
}

/// Returns the first pod on which the user resumed after this time.
fn resumed_after(ended: u64, own: &PodAnswer, all: &[PodAnswer]) -> Option<(Arc<str>, u64)> {
    let others = all.iter().filter(|other| other.pod != own.pod);
    let begins = others.flat_map(|other| {
        let resumed = other.stays.iter().filter(|stay| stay.resumed && stay.began + CLOCK_ERROR >= ended);
        resumed.map(|stay| (other.pod.clone(), stay.began))
    });
    begins.min_by_key(|(_, began)| *began)
}

fn words(answer: Answer, own: &PodAnswer, resumed: Option<&(Arc<str>, u64)>) -> String {
    let resumed = resumed.map(|(pod, at)| format!("; the client resumed on {pod} at {}", time(*at)));
    let resumed = resumed.unwrap_or_default();
    match answer {
        Answer::Told => format!("gave the event to the user{}", at(own.received)),
        Answer::Author => "left the user out: the user is the author of the event".to_owned(),
        Answer::NoCommonKey => "left the user out: the user listens to none of the event's keys".to_owned(),
        Answer::Filtered => {
            "had a subscription of the user, which selects other events by its field or its arguments"
                .to_owned()
        }
        Answer::QueueFull => {
            format!("ended the user's connection, since its send queue was full (1013){resumed}")
        }
        Answer::Gap => {
            let notice = own.gap.as_ref();
            let reason = notice.map_or("", |gap| &*gap.reason);
            format!("gave the user a gap notice instead ({reason}){}", at(notice.map(|gap| gap.at)))
        }
        Answer::NotConnected | Answer::ResumedElsewhere => absence(own) + &resumed,
        Answer::BeforeStart => {
            "began after the event was published; only a client that resumes from before gets it there"
                .to_owned()
        }
        Answer::NotRecorded => {
            "gave the event to so many users that it has not recorded all of them".to_owned()
        }
        Answer::NotInWindow => {
            "does not have the event: it is too old, changed only state, or never came".to_owned()
        }
        Answer::Other => "gives an answer of a newer release, which this pod cannot read".to_owned(),
    }
}

/// Returns why there was no subscription of the user, in words.
fn absence(own: &PodAnswer) -> String {
    let none = "had no subscription of the user";
    let Some((ended, stay)) = last_end(own) else {
        return match own.stays.first() {
            Some(open) => format!("{none} then; one began at {}", time(open.began)),
            None => format!("{none} lately"),
        };
    };
    let reason = end(stay.reason.as_deref().unwrap_or("unknown"));
    format!("{none}: the last connection ended at {}, because {reason}", time(ended))
}

/// Returns the reason of a connection's end, in words.
fn end(reason: &str) -> String {
    match reason {
        "left" => "the client left".to_owned(),
        "lost" => "it was lost".to_owned(),
        "dead" => "the client did not answer".to_owned(),
        "drained" => "the pod drained".to_owned(),
        "expired" => "its token expired".to_owned(),
        "slow" => "the client read too slowly".to_owned(),
        other => format!("of `{other}`"),
    }
}

fn at(millis: Option<u64>) -> String {
    millis.map(|millis| format!(" at {}", time(millis))).unwrap_or_default()
}

fn time(millis: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    time.and_then(rfc3339::write_millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pod: &str, answer: Answer, stays: Vec<Stay>) -> PodAnswer {
        PodAnswer { pod: pod.into(), answer, received: Some(10_000), stays, gap: None }
    }

    fn stay(began: u64, ended: Option<u64>, resumed: bool) -> Stay {
        let reason = ended.map(|_| "drained".into());
        Stay { transport: "ws".into(), began, resumed, ended, reason }
    }

    #[test]
    fn client_that_moved_is_resumed_elsewhere() {
        let left = answer("pod-1", Answer::NotConnected, vec![stay(0, Some(5_000), false)]);
        let came = answer("pod-2", Answer::Told, vec![stay(5_100, None, true)]);
        let never = answer("pod-3", Answer::NotConnected, vec![]);
        let verdicts = verdicts(&[never.clone(), came.clone(), left.clone()]);
        let found: Vec<_> = verdicts.iter().map(|verdict| (&*verdict.pod, verdict.answer)).collect();
        let expected =
            [("pod-1", Answer::ResumedElsewhere), ("pod-2", Answer::Told), ("pod-3", Answer::NotConnected)];
        assert_eq!(found, expected);
        assert_eq!(
            verdicts[0].sentence,
            "pod-1 had no subscription of the user: the last connection ended at 1970-01-01T00:00:05.000Z, \
             because the pod drained; the client resumed on pod-2 at 1970-01-01T00:00:05.100Z."
        );

        let anew = answer("pod-2", Answer::Told, vec![stay(5_100, None, false)]);
        let early = answer("pod-2", Answer::Told, vec![stay(100, None, true)]);
        for other in [anew, early] {
            assert_eq!(super::verdicts(&[left.clone(), other])[0].answer, Answer::NotConnected);
        }
        assert_eq!(
            super::verdicts(&[came, never])[1].sentence,
            "pod-3 had no subscription of the user lately."
        );
    }

    #[test]
    fn each_answer_has_its_sentence() {
        let sentence = |reason| verdict(&answer("p", reason, vec![]), &[]).sentence;
        let all = [
            Answer::Told,
            Answer::QueueFull,
            Answer::Filtered,
            Answer::Gap,
            Answer::Author,
            Answer::NoCommonKey,
            Answer::BeforeStart,
            Answer::NotConnected,
            Answer::NotRecorded,
            Answer::NotInWindow,
            Answer::Other,
        ];
        let sentences: std::collections::BTreeSet<_> = all.map(sentence).into();
        assert_eq!(sentences.len(), all.len());
        assert!(sentences.iter().all(|text| text.starts_with("p ") && text.ends_with('.')), "{sentences:?}");
    }
}
