//! [`Balancer`]: how many connections a pod ends after the membership has grown, so that their
//! clients spread over all members.
//!
//! It is pure: views of the members go in, and a number of connections comes out. It must never
//! move anything while a pod drains, starts or is away, nor where clients come back to this pod.

use std::time::Duration;

use tokio::time::Instant;

/// Heartbeat intervals for which the membership must not have changed: 120 s by default.
const QUIET: u32 = 12;

/// Share of the mean by which a pod must be above it.
const TOLERANCE: f64 = 0.15;

/// Share of its surplus that a pod ends in one round.
const STEP: f64 = 0.25;

/// Share of its first surplus that a pod ends in one round at most. Without this limit, the first
/// rounds have nearly three times the mean of all rounds if two pods become six, and more than that
/// if one does. The limit costs less than half a round.
const MOST: f64 = 0.2;

/// Share of what was ended that must not have come back to this pod.
const LEAST_AWAY: f64 = 0.25;

/// Rounds after which the pod stops if too much has come back.
const TRIES: u32 = 2;

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

/// Connections that this pod has ended, so that their clients connect to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Number of them, since nothing moved last.
    pub ended: u64,
    /// Number of those whose users have connected to this pod again.
    pub returned: u64,
}

/// State of one pod between two rounds.
#[derive(Debug, Default)]
pub struct Balancer {
    /// The members of the last round, and since when they are the same.
    known: Option<(View, Instant)>,
    /// Whether the membership has grown. Not once it has shrunk, or clients have come back.
    has_grown: bool,
    /// Rounds that moved something, since nothing moved last.
    rounds: u32,
    /// Largest surplus of this pod in these rounds.
    first: f64,
}

impl Balancer {
    /// Returns how many connections this pod ends in the round that begins now. `interval` is the
    /// longest time between two heartbeats of a pod.
    pub fn round(&mut self, view: View, moves: Moves, interval: Duration, now: Instant) -> u64 {
        let quiet = now.duration_since(self.follow(view, now));
        let may = self.has_grown && view.is_calm && view.pods > 1 && quiet >= interval * QUIET;
        // With session affinity, and other balancers that send clients back.
        let is_in_vain =
            self.rounds >= TRIES && moves.returned as f64 > moves.ended as f64 * (1.0 - LEAST_AWAY);
        let (own, mean) = (view.own as f64, view.total as f64 / view.pods as f64);
        if !may || is_in_vain || own <= mean * (1.0 + TOLERANCE) {
            self.has_grown &= !is_in_vain;
            (self.rounds, self.first) = (0, 0.0);
            return 0;
        }
        let surplus = own - mean;
        self.rounds += 1;
        self.first = self.first.max(surplus);
        (surplus * STEP).min(self.first * MOST).ceil() as u64
    }

    /// Follows the members. Returns since when they are the same.
    fn follow(&mut self, view: View, now: Instant) -> Instant {
        let since = match self.known {
            Some((known, since)) if known.members == view.members && view.is_calm => since,
            Some((known, _)) => {
                if known.members != view.members {
                    // After a loss the clients of the lost pod spread over all by themselves.
                    self.has_grown = view.pods > known.pods || (self.has_grown && view.pods == known.pods);
                }
                now
            }
            None => now,
        };
        self.known = Some((view, since));
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// Pod of the model: its balancer, its connections and its moves.
    #[derive(Debug, Default)]
    struct Pod {
        balancer: Balancer,
        held: u64,
        moves: Moves,
    }

    /// Model of the members behind a load balancer that gives each the same share.
    struct Model {
        pods: Vec<Pod>,
        now: Instant,
        is_calm: bool,
        /// Whether clients come back to the pod that they left.
        is_sticky: bool,
        /// Most connections that moved in one round.
        most: u64,
    }

    impl Model {
        fn new(pods: &[u64]) -> Self {
            let pods = pods.iter().map(|held| Pod { held: *held, ..Pod::default() }).collect();
            Self { pods, now: Instant::now(), is_calm: true, is_sticky: false, most: 0 }
        }

        fn add(&mut self, pods: usize) {
            self.pods.extend((0..pods).map(|_| Pod::default()));
        }

        /// Runs one round: two intervals of heartbeats. Returns how many connections moved.
        fn round(&mut self) -> u64 {
            self.now += INTERVAL * 2;
            let (pods, total) = (self.pods.len(), self.pods.iter().map(|pod| pod.held).sum());
            let is_calm = self.is_calm;
            let mut moved = Vec::new();
            for (at, pod) in self.pods.iter_mut().enumerate() {
                let view = View { pods, members: pods as u64, total, own: pod.held, is_calm };
                let count = pod.balancer.round(view, pod.moves, INTERVAL, self.now);
                if count == 0 {
                    pod.moves = Moves::default();
                }
                pod.held -= count;
                pod.moves.ended += count;
                moved.extend((0..count).map(|_| at));
            }
            for (n, from) in moved.iter().enumerate() {
                let to = if self.is_sticky { *from } else { n % pods };
                self.pods[to].held += 1;
                self.pods[to].moves.returned += u64::from(to == *from);
            }
            let moved = moved.len() as u64;
            self.most = self.most.max(moved);
            moved
        }

        fn rounds(&mut self, count: usize) -> u64 {
            (0..count).map(|_| self.round()).sum()
        }

        fn spread(&self) -> f64 {
            let most = self.pods.iter().map(|pod| pod.held).max().unwrap();
            let total: u64 = self.pods.iter().map(|pod| pod.held).sum();
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
        assert!(model.most <= 268, "a fifth of the surplus at once: {}", model.most);
        assert_eq!(model.rounds(50), 0, "it comes to rest");
    }

    #[tokio::test(start_paused = true)]
    async fn no_round_has_three_times_the_mean() {
        for (old, new) in [(1, 1), (1, 5), (2, 4), (2, 8), (4, 4), (10, 10)] {
            let mut model = Model::new(&vec![1_000; old]);
            model.rounds(10);
            model.add(new);
            let moves: Vec<u64> = (0..50).map(|_| model.round()).filter(|moved| *moved > 0).collect();
            let mean = moves.iter().sum::<u64>() as f64 / moves.len() as f64;
            assert!(model.most as f64 <= mean * 2.8, "{old} and {new}: {moves:?}, {mean} on average");
            assert!(moves.len() <= 16, "{old} and {new}: {} rounds", moves.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_new_pods_among_many_get_their_share() {
        for (old, new) in [(3, 1), (4, 1), (8, 2), (10, 3), (20, 5)] {
            let mut model = Model::new(&vec![1_000; old]);
            model.rounds(10);
            model.add(new);
            model.rounds(50);
            assert!(model.spread() <= 1.16, "{old} and {new}: {:?}", model.spread());
        }
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
        assert!(moved > 0 && moved <= 2 * 268, "two rounds at most: {moved}");
        model.add(1);
        assert!(model.rounds(10) > 0, "it tries again when the membership grows again");
    }

    #[tokio::test(start_paused = true)]
    async fn small_difference_moves_nothing() {
        let mut model = Model::new(&[100, 100, 100]);
        model.rounds(10);
        model.add(1);
        model.pods[3].held = 90;
        assert_eq!(model.rounds(50), 0);
    }
}
