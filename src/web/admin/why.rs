//! [`answer`]: why a user did or did not receive an event on this pod.
//!
//! It puts together what the delivery log, the registry of connections and the domain know. It must
//! never show a payload, nor the name of another user.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::web::{connection, state::AppState};
use crate::{
    audience::Viewer,
    domain::Found,
    hub::{Answer, Relayed},
    question::{Gap, PodAnswer, Question, Stay},
};

/// Most open connections of an answer, and most ended ones.
const MAX_STAYS: usize = 4;

/// Most watchers of the user that are compared with the event.
const MAX_WATCHERS: usize = 64;

/// Returns this pod's answer.
#[must_use]
pub fn answer(app: &AppState, question: &Question) -> PodAnswer {
    let (event, user) = (&*question.event, &*question.user);
    let stays = app.connections.stays(user, MAX_STAYS);
    let found = app.hub.explain(event);
    let published = found.as_ref().map(|(relayed, _)| relayed.position.published);
    let gap = app.hub.gap_of(user, published);
    let answer = match &found {
        None => Answer::NotInWindow,
        Some((relayed, record)) => {
            let was_watching = stays.iter().any(|stay| stay.includes(record.arrived));
            record.answer(relayed, user, viewer(app, user, relayed).as_ref(), was_watching)
        }
    };
    let is_absent =
        matches!(answer, Answer::NotInWindow | Answer::NotConnected | Answer::Filtered | Answer::BeforeStart);
    let gap = gap.filter(|_| is_absent);
    PodAnswer {
        pod: app.health.pod().into(),
        answer: if gap.is_some() { Answer::Gap } else { answer },
        received: found.map(|(_, record)| millis(app, record.arrived)),
        stays: stays.iter().map(|stay| shown(app, stay)).collect(),
        gap: gap.map(|(at, notice)| Gap { reason: notice.reason.into(), at: millis(app, at) }),
    }
}

/// Returns the user with interests. Without a table of users, only watchers show interests.
fn viewer(app: &AppState, user: &str, relayed: &Relayed) -> Option<Viewer> {
    match app.auth.find(user) {
        Found::User(viewer) => return Some(viewer),
        Found::Unknown => return None,
        Found::NoTable => {}
    }
    let viewers = app.hub.viewers_of(user, MAX_WATCHERS);
    let includes = |viewer: &&Arc<Viewer>| relayed.audience.includes(viewer);
    viewers.iter().find(includes).or(viewers.first()).map(|viewer| (**viewer).clone())
}

fn shown(app: &AppState, stay: &connection::Stay) -> Stay {
    Stay {
        transport: stay.transport.name().into(),
        began: millis(app, stay.began),
        resumed: stay.resumed,
        ended: stay.end.map(|(ended, _)| millis(app, ended)),
        reason: stay.end.map(|(_, reason)| reason.into()),
    }
}

/// Returns a moment of this pod as milliseconds since 1970, by the topic's clock.
fn millis(app: &AppState, at: Instant) -> u64 {
    let time = app.connections.clock().now().checked_sub(at.elapsed());
    let since_1970 = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since_1970.map_or(0, |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
