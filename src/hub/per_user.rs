//! [`PerUser`]: the last few things that happened to each user, for `/debug`.
//!
//! It is bounded in time, in users, and per user, so that no user drives out what is kept of
//! another. It must never decide about deliveries.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Most users that are remembered. Beyond it the user with the oldest last event is forgotten.
const MAX_USERS: usize = 10_000;

/// Most things that are remembered of one user. Beyond it the oldest is forgotten.
const MAX_EACH: usize = 4;

/// Things that happened to users lately.
pub struct PerUser<T> {
    span: Duration,
    by_user: HashMap<Arc<str>, VecDeque<(Instant, T)>>,
    /// Each user once, with a time at which something happened to it; nearly in the order of these
    /// times.
    order: VecDeque<(Instant, Arc<str>)>,
}

impl<T> PerUser<T> {
    /// Creates an empty set. It forgets what is older than `span`.
    #[must_use]
    pub fn new(span: Duration) -> Self {
        Self { span, by_user: HashMap::new(), order: VecDeque::new() }
    }

    /// Adds what happens to this user now.
    pub fn add(&mut self, user: &Arc<str>, thing: T) {
        let now = Instant::now();
        self.forget(now);
        let things = self.by_user.entry(user.clone()).or_default();
        if things.is_empty() {
            self.order.push_back((now, user.clone()));
        } else if things.len() == MAX_EACH {
            things.pop_front();
        }
        things.push_back((now, thing));
    }

    /// Returns what happened to this user within the span, the newest first.
    pub fn of(&self, user: &str) -> impl Iterator<Item = &(Instant, T)> {
        let things = self.by_user.get(user).into_iter().flat_map(|things| things.iter().rev());
        things.take_while(|(at, _)| at.elapsed() <= self.span)
    }

    /// Forgets users until there is room for one more and none is too old.
    fn forget(&mut self, now: Instant) {
        while let Some((at, user)) = self.order.front() {
            if now.duration_since(*at) <= self.span && self.by_user.len() < MAX_USERS {
                return;
            }
            let last = self.by_user.get(user).and_then(|things| things.back()).map(|(last, _)| *last);
            let Some((at, user)) = self.order.pop_front() else { return };
            match last.filter(|last| *last > at) {
                Some(last) => self.order.push_back((last, user)),
                None => drop(self.by_user.remove(&user)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SPAN: Duration = Duration::from_secs(600);

    fn things(all: &PerUser<usize>, user: &str) -> Vec<usize> {
        all.of(user).map(|(_, thing)| *thing).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn user_keeps_newest_things_of_span() {
        let mut all = PerUser::new(SPAN);
        for thing in 0..10 {
            all.add(&"a".into(), thing);
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(things(&all, "a"), [9, 8, 7, 6]);
        advance(SPAN - Duration::from_secs(1)).await;
        assert_eq!(things(&all, "a"), [9]);
        all.add(&"b".into(), 1);
        advance(SPAN + Duration::from_secs(1)).await;
        all.add(&"c".into(), 1);
        assert_eq!((all.by_user.len(), all.order.len()), (1, 1), "old users are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn busy_user_drives_out_no_other() {
        let mut all = PerUser::new(SPAN);
        all.add(&"quiet".into(), 1);
        for thing in 0..3 * MAX_USERS {
            all.add(&"busy".into(), thing);
        }
        assert_eq!(things(&all, "quiet"), [1]);
        for user in 0..2 * MAX_USERS {
            advance(Duration::from_nanos(1)).await;
            all.add(&user.to_string().into(), 0);
        }
        assert_eq!((all.by_user.len(), all.order.len()), (MAX_USERS, MAX_USERS));
        assert!(things(&all, "quiet").is_empty(), "the oldest user made room");
    }
}
