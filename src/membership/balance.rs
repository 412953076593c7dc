//! [`Balancer`]: how many connections a pod ends after the membership has grown, so that their
//! clients spread over all members.
//!
//! It is pure: views of the members go in, and a number of connections comes out. It must never
//! move anything while a pod drains, starts or is away, nor where clients come back to this pod.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which the membership must not have changed.
const QUIET: Duration = Duration::from_secs(120);

/// Share of the mean by which a pod must be above it.
const TOLERANCE: f64 = 0.15;

/// Share of its surplus that a pod ends in one round.
const STEP: f64 = 0.25;

/// Share of what was ended that must not have come back by the next round.
const LEAST_FALL: f64 = 0.25;

/// Rounds without a fall after which the pod stops.
const STRIKES: u32 = 2;

/// Members as one pod sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Number of live members.
    pub pods: usize,
    /// A number that is the same for the same members.
    pub members: u64,
    /// Connections of all members.
    pub total: u64,
    /// Connections of this pod.
    pub own: u64,
    /// Whether all members are ready, of one version and not draining.
    pub is_calm: bool,
}

/// State of one pod between two rounds.
#[derive(Debug, Default)]
pub struct Balancer {
    /// The members of the last round, and since when they are the same.
    known: Option<(View, Instant)>,
    /// Whether the membership has grown since it was last balanced or has shrunk.
    has_grown: bool,
    /// Connections before the last round, and how many of them it ended.
    ended: Option<(u64, u64)>,
    strikes: u32,
}

impl Balancer {
    /// Returns how many connections this pod ends in the round that begins now.
    pub fn round(&mut self, view: View, now: Instant) -> u64 {
        let since = self.follow(view, now);
        if !self.has_grown || !view.is_calm || view.pods < 2 || now.duration_since(since) < QUIET {
            self.ended = None;
            return 0;
        }
        if self.is_in_vain(view.own) {
            self.has_grown = false;
            return 0;
        }
        let (own, mean) = (view.own as f64, view.total as f64 / view.pods as f64);
        if own <= mean * (1.0 + TOLERANCE) {
            self.ended = None;
            return 0;
        }
        let count = ((own - mean) * STEP).ceil() as u64;
        self.ended = Some((view.own, count));
        count
    }

    /// Follows the members. Returns since when they are the same.
    fn follow(&mut self, view: View, now: Instant) -> Instant {
        let since = match self.known {
            Some((known, since)) if known.members == view.members && view.is_calm => since,
            Some((known, _)) => {
                if known.members != view.members {
                    // After a loss the clients of the lost pod spread over all by themselves.
                    self.has_grown = view.pods > known.pods || (self.has_grown && view.pods == known.pods);
                    self.strikes = 0;
                }
                now
            }
            None => now,
        };
        self.known = Some((view, since));
        since
    }

    /// Reports whether what was ended comes back to this pod, as with session affinity.
    fn is_in_vain(&mut self, own: u64) -> bool {
        let Some((before, count)) = self.ended.take() else { return false };
        let has_fallen = own as f64 <= before as f64 - count as f64 * LEAST_FALL;
        self.strikes = if has_fallen { 0 } else { self.strikes + 1 };
        self.strikes >= STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time of one round: two intervals of heartbeats.
    const ROUND: Duration = Duration::from_secs(20);

    /// Model of the members behind a balancer.
    struct Model {
        pods: Vec<(Balancer, u64)>,
        now: Instant,
        is_calm: bool,
        /// Whether clients come back to the pod that they left.
        is_sticky: bool,
        /// Most connections that moved in one round.
        most: u64,
    }

    impl Model {
        fn new(pods: &[u64]) -> Self {
            let pods = pods.iter().map(|held| (Balancer::default(), *held)).collect();
            Self { pods, now: Instant::now(), is_calm: true, is_sticky: false, most: 0 }
        }

        fn add(&mut self, pods: usize) {
            self.pods.extend((0..pods).map(|_| (Balancer::default(), 0)));
        }

        /// Runs one round. Returns how many connections moved.
        fn round(&mut self) -> u64 {
            self.now += ROUND;
            let (pods, total) = (self.pods.len(), self.pods.iter().map(|(_, held)| held).sum());
            let is_calm = self.is_calm;
            let mut moved = 0;
            for (balancer, held) in &mut self.pods {
                let view = View { pods, members: pods as u64, total, own: *held, is_calm };
                let count = balancer.round(view, self.now);
                moved += count;
                *held -= if self.is_sticky { 0 } else { count };
            }
            if !self.is_sticky {
                for n in 0..moved {
                    let at = usize::try_from(n).unwrap() % pods;
                    self.pods[at].1 += 1;
                }
            }
            self.most = self.most.max(moved);
            moved
        }

        fn rounds(&mut self, count: usize) -> u64 {
            (0..count).map(|_| self.round()).sum()
        }

        fn spread(&self) -> f64 {
            let most = self.pods.iter().map(|(_, held)| *held).max().unwrap();
            let total: u64 = self.pods.iter().map(|(_, held)| held).sum();
            most as f64 * self.pods.len() as f64 / total as f64
        }
    }

    #[tokio::test(start_paused = true)]
    async fn grown_membership_is_balanced_in_steps() {
        let mut model = Model::new(&[1_000, 1_000]);
        assert_eq!(model.rounds(20), 0, "it has not grown");
        model.add(4);
        assert_eq!(model.rounds(6), 0, "it is not quiet for long enough");
        model.rounds(20);
        assert!(model.spread() < 1.2, "{:?}", model.spread());
        assert!(model.most <= 334, "a quarter of the surplus at once: {}", model.most);
        assert_eq!(model.rounds(50), 0, "it comes to rest");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_moves_in_drains_and_outages() {
        let mut model = Model::new(&[1_000, 1_000]);
        model.rounds(10);
        model.add(4);
        model.is_calm = false;
        assert_eq!(model.rounds(100), 0);
        model.is_calm = true;
        assert_eq!(model.rounds(5), 0, "quiet begins when all are ready again");
        model.pods.pop();
        assert_eq!(model.rounds(100), 0, "it has shrunk");
    }

    #[tokio::test(start_paused = true)]
    async fn pod_stops_when_clients_come_back_to_it() {
        let mut model = Model::new(&[1_000, 1_000]);
        model.rounds(10);
        model.add(4);
        model.is_sticky = true;
        let moved = model.rounds(100);
        assert!(moved > 0 && moved <= 2 * 334, "two rounds at most: {moved}");
        model.add(1);
        assert!(model.rounds(10) > 0, "it tries again when the membership grows again");
    }

    #[tokio::test(start_paused = true)]
    async fn small_difference_moves_nothing() {
        let mut model = Model::new(&[100, 100, 100]);
        model.rounds(10);
        model.add(1);
        model.pods[3].1 = 90;
        assert_eq!(model.rounds(50), 0);
    }
}
