//! The set of applied events, and the requests that wait for one; time is paused.

use std::pin::pin;

use tokio::time::{advance, timeout};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);

fn insert(applied: &Applied, source: &str, id: &str, published: SystemTime) -> bool {
    let event = applied.key(source, id);
    let is_new = !applied.has(event);
    if is_new {
        applied.insert(event, Some(published));
    }
    is_new
}

fn written(id: &str, time: SystemTime) -> Written {
    Written { time, source: "/s".into(), id: id.into() }
}

fn counts(applied: &Applied) -> (usize, usize) {
    let state = applied.state();
    (state.events.len(), state.order.len())
}

#[tokio::test(start_paused = true)]
async fn repeat_is_recognized_within_window_only() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    assert!(insert(&applied, "/s", "a", topic));
    advance(SECOND * 9).await;
    assert!(!insert(&applied, "/s", "a", topic));
    advance(SECOND).await;
    assert!(insert(&applied, "/s", "a", topic));
    assert_eq!(counts(&applied), (1, 1));
}

#[test]
fn remembered_events_are_bounded() {
    let (applied, topic) = (Applied::new(WINDOW * 100), SystemTime::now());
    for n in 0..=MAX_EVENTS {
        insert(&applied, "/s", &n.to_string(), topic);
    }
    assert_eq!(counts(&applied), (MAX_EVENTS, MAX_EVENTS));
    assert_eq!(size_of::<Entry>(), 32);
}

#[test]
fn same_id_of_two_sources_is_two_events() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    assert!(insert(&applied, "/a", "1", topic));
    assert!(insert(&applied, "/b", "1", topic));
    assert!(insert(&applied, "/a1", "", topic));
    assert!(!insert(&applied, "/b", "1", topic));
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_its_event_only() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    applied.set_caught_up(true);
    let (mine, other) = (written("mine", topic), written("other", topic));
    let mut waits = [pin!(applied.wait(&mine)), pin!(applied.wait(&mine))];
    for wait in &mut waits {
        assert!(timeout(SECOND, wait.as_mut()).await.is_err());
    }
    insert(&applied, "/s", "other", topic);
    assert!(timeout(SECOND, waits[0].as_mut()).await.is_err());
    insert(&applied, "/s", "mine", topic);
    for wait in waits {
        timeout(Duration::ZERO, wait).await.unwrap();
    }
    timeout(Duration::ZERO, applied.wait(&other)).await.unwrap();
    assert!(applied.state().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn request_that_gives_up_leaves_nothing() {
    let (applied, event) = (Applied::new(WINDOW), written("never", SystemTime::now()));
    {
        let mut waits = [pin!(applied.wait(&event)), pin!(applied.wait(&event))];
        for wait in &mut waits {
            assert!(timeout(SECOND, wait.as_mut()).await.is_err());
        }
        assert_eq!(applied.state().waiting.len(), 1);
    }
    assert!(applied.state().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn event_from_before_the_feed_is_shown() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    let (before, after) = (written("before", topic - SECOND), written("after", topic));
    assert!(!applied.shows(&before), "the feed has not caught up");
    applied.begin_at(topic);
    applied.set_caught_up(true);
    assert_eq!((applied.shows(&before), applied.shows(&after)), (true, false));
    // The history of a feed may come late.
    applied.expect_history(Instant::now() + SECOND);
    assert!(!applied.shows(&before));
    advance(SECOND).await;
    assert!(applied.shows(&before));
}

#[tokio::test(start_paused = true)]
async fn forgotten_event_is_shown() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    applied.set_caught_up(true);
    insert(&applied, "/s", "a", topic);
    insert(&applied, "/s", "b", topic + SECOND);
    advance(WINDOW).await;
    insert(&applied, "/s", "c", topic + WINDOW);
    assert!(applied.shows(&written("a", topic)));
    assert!(!applied.shows(&written("unknown", topic + SECOND * 2)));
}

#[tokio::test(start_paused = true)]
async fn events_forgotten_during_catch_up_prove_nothing() {
    let (applied, topic) = (Applied::new(WINDOW), SystemTime::now());
    applied.begin_at(topic - SECOND);
    applied.set_caught_up(true);
    applied.set_caught_up(false);
    insert(&applied, "/s", "a", topic + SECOND);
    advance(WINDOW).await;
    insert(&applied, "/s", "b", topic + WINDOW);
    assert!(!applied.shows(&written("late", topic)));
    assert!(applied.shows(&written("old", topic - SECOND * 2)));
    applied.set_caught_up(true);
    assert!(applied.shows(&written("late", topic)));
}
