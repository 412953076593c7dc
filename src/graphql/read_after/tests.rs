//! Requests that wait for events; time is paused.

use std::time::SystemTime;

use tokio::time::{Instant, sleep};

use super::*;
use crate::telemetry::Metrics;

const SECOND: Duration = Duration::from_secs(1);

/// Returns the waiting room of a pod that has caught up, its events and its pool. The pool has room
/// for this many requests.
fn room(waiters: usize) -> (ReadAfter, Applied, Pool) {
    let applied = Applied::new(SECOND * 600);
    applied.set_caught_up(true);
    let pool = Pool::new("requests", waiters * WAITER_BYTES, waiters * WAITER_BYTES);
    let meter = Metrics::new("pod", false).unwrap().meter();
    (ReadAfter::new(applied.clone(), "t".into(), pool.clone(), &meter), applied, pool)
}

fn token(id: &str) -> String {
    let written = Written { time: SystemTime::now(), source: "/pods/a".into(), id: id.into() };
    written.encode("t")
}

fn apply(applied: &Applied, id: &str) {
    applied.insert(applied.key("/pods/a", id), Some(SystemTime::now()));
}

fn code(refusal: Error) -> Option<String> {
    let response = serde_json::to_value(refusal.response()).unwrap();
    response["errors"][0]["extensions"]["code"].as_str().map(str::to_owned)
}

fn taken(value: Value) -> Result<Vec<String>, Box<Response>> {
    let mut request = Request::new("{ a }");
    request.extensions.insert(READ_AFTER.to_owned(), value);
    let taken = take(&mut request);
    assert!(request.extensions.is_empty(), "resolvers do not see it");
    taken
}

#[test]
fn tokens_are_one_text_or_several() {
    let list = |count: usize| Value::List((0..count).map(|n| Value::from(n.to_string())).collect());
    assert_eq!(taken(Value::from("a")).ok().unwrap(), ["a"]);
    assert_eq!(taken(list(8)).ok().unwrap().len(), 8);
    for none in [Value::Null, Value::from(""), list(0)] {
        assert!(taken(none).ok().unwrap().is_empty());
    }
    for bad in [Value::from(7), list(9), Value::List(vec![Value::from(7)])] {
        assert!(taken(bad).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_all_of_its_events() {
    for tokens in [[token("1"), token("2")], [token("2"), token("1")]] {
        let (room, applied, pool) = room(1);
        let (began, user) = (Instant::now(), "u".into());
        let applies = async {
            sleep(SECOND / 2).await;
            apply(&applied, "2");
            assert_eq!(pool.used(), WAITER_BYTES);
            sleep(SECOND).await;
            apply(&applied, "1");
        };
        let waited = async { room.wait(&tokens, &user).await.map(|()| began.elapsed()) };
        let (waited, ()) = tokio::join!(waited, applies);
        assert_eq!((waited.unwrap(), pool.used()), (SECOND * 3 / 2, 0));
        room.wait(&tokens, &user).await.unwrap();
        assert_eq!(began.elapsed(), SECOND * 3 / 2, "an event that is applied costs no time");
    }
}

#[tokio::test(start_paused = true)]
async fn event_that_does_not_come_is_named() {
    let (room, applied, pool) = room(1);
    apply(&applied, "1");
    let (began, user) = (Instant::now(), "u".into());
    let refusal = room.wait(&[token("1"), token("never")], &user).await.unwrap_err();
    assert_eq!(code(refusal).as_deref(), Some("NOT_CAUGHT_UP"));
    assert_eq!((began.elapsed(), pool.used()), (PATIENCE, 0));
}

#[tokio::test(start_paused = true)]
async fn users_share_bounds_its_waiters() {
    let (room, applied, _) = room(2);
    let (tokens, user) = ([token("1")], "u".into());
    let beyond = async {
        let refusal = room.wait(&tokens, &user).await.unwrap_err();
        assert_eq!(code(refusal).as_deref(), Some("OVERLOADED"));
        apply(&applied, "1");
    };
    let (first, second, ()) = tokio::join!(room.wait(&tokens, &user), room.wait(&tokens, &user), beyond);
    first.and(second).unwrap();
}

#[tokio::test]
async fn foreign_text_is_no_token() {
    let (room, ..) = room(1);
    let other = Written { time: SystemTime::now(), source: "/pods/a".into(), id: "1".into() }.encode("other");
    for text in ["x", &other] {
        let refusal = room.wait(&[text.to_owned()], &"u".into()).await.unwrap_err();
        assert_eq!(code(refusal).as_deref(), Some("BAD_READ_AFTER"));
    }
}
