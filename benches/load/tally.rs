//! What arrived: how much, how late, and whether it was what each watcher should have got.
//!
//! Every delivery is checked by the number in it. A count that is not checked would praise a server for what it lost.

use std::time::Duration;

use tokio::time::Instant;

/// How far events may overtake each other on their way to one watcher; more than are ever in flight.
const REORDER: usize = 512;

/// Deliveries that went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Never came.
    pub(crate) missing: u64,
    /// Came twice.
    pub(crate) duplicate: u64,
    /// Not for this watcher, not an event, a failed mutation, or the end of a connection.
    pub(crate) wrong: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.duplicate += other.duplicate;
        self.wrong += other.wrong;
    }

    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// The events that one watcher has seen.
pub(crate) struct Seen {
    /// All before this one came or are missing.
    next: u32,
    ahead: [u64; REORDER / 64],
}

impl Seen {
    pub(crate) const fn since(next: u32) -> Self {
        Self { next, ahead: [0; REORDER / 64] }
    }

    fn bit(number: u32) -> (usize, u64) {
        let place = number as usize % REORDER;
        (place / 64, 1 << (place % 64))
    }

    /// Whether this event is new; with how many that can no longer come.
    fn insert(&mut self, number: u32) -> (bool, u64) {
        if number == self.next && self.ahead == [0; REORDER / 64] {
            self.next += 1;
            return (true, 0);
        }
        let mut missing = 0;
        while number >= self.next + REORDER as u32 {
            missing += u64::from(!self.step());
        }
        let (word, bit) = Self::bit(number);
        if number < self.next || self.ahead[word] & bit != 0 {
            return (false, missing);
        }
        self.ahead[word] |= bit;
        while self.ahead[Self::bit(self.next).0] & Self::bit(self.next).1 != 0 {
            self.step();
        }
        (true, missing)
    }

    /// Moves on by one, and says whether that one came.
    fn step(&mut self) -> bool {
        let (word, bit) = Self::bit(self.next);
        let came = self.ahead[word] & bit != 0;
        self.ahead[word] &= !bit;
        self.next += 1;
        came
    }

    /// How many of the first `published` events never came.
    pub(crate) fn missing(&self, published: u32) -> u64 {
        let ahead: u32 = self.ahead.iter().map(|word| word.count_ones()).sum();
        u64::from(published.saturating_sub(self.next)).saturating_sub(u64::from(ahead))
    }
}

/// What all watchers got.
pub(crate) struct Tally {
    /// When each event was published, or was due if events are paced; the index is its number.
    published: Vec<Instant>,
    /// How many watchers have each event.
    arrived: Vec<u32>,
    /// How many watchers every event is for.
    pub(crate) expected: u32,
    /// How many events all of them have.
    pub(crate) completed: u32,
    pub(crate) deliveries: u64,
    pub(crate) frame_bytes: usize,
    pub(crate) faults: Faults,
    /// In microseconds, while [`Self::is_timing`].
    latencies: Vec<u32>,
    pub(crate) is_timing: bool,
    /// Where the number stood in the last frame.
    pub(crate) hint: usize,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            published: Vec::new(),
            arrived: Vec::new(),
            expected: 0,
            completed: 0,
            deliveries: 0,
            frame_bytes: 0,
            faults: Faults { missing: 0, duplicate: 0, wrong: 0 },
            latencies: Vec::new(),
            is_timing: false,
            hint: 0,
        }
    }

    /// How many events there were.
    pub(crate) fn published(&self) -> u32 {
        u32::try_from(self.published.len()).expect("a run publishes fewer than 4 billion events")
    }

    /// The number of a new event.
    pub(crate) fn publish(&mut self, at: Instant) -> u32 {
        let number = self.published();
        self.published.push(at);
        self.arrived.push(0);
        number
    }

    /// Events that some watcher still waits for.
    pub(crate) fn in_flight(&self) -> u32 {
        if self.expected == 0 { 0 } else { self.published() - self.completed }
    }

    /// A frame reached a watcher.
    pub(crate) fn take(&mut self, seen: &mut Seen, is_meant: bool, number: Option<u32>, now: Instant) {
        let number = number.filter(|number| is_meant && *number < self.published());
        let Some(number) = number else {
            self.faults.wrong += 1;
            return;
        };
        let (is_new, missing) = seen.insert(number);
        self.faults.missing += missing;
        if !is_new {
            self.faults.duplicate += 1;
            return;
        }
        self.deliveries += 1;
        let index = number as usize;
        self.arrived[index] += 1;
        self.completed += u32::from(self.arrived[index] == self.expected);
        if self.is_timing {
            let latency = now.saturating_duration_since(self.published[index]).as_micros();
            self.latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
        }
    }

    /// The latencies since the last call, in order.
    pub(crate) fn latencies(&mut self) -> Latencies {
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        Latencies(latencies)
    }
}

/// Latencies in order.
#[derive(Clone)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    /// The latency that this share of deliveries does not exceed; `None` without deliveries.
    pub(crate) fn percentile(&self, share: f64) -> Option<Duration> {
        let last = self.0.len().checked_sub(1)?;
        let index = (last as f64 * share).round() as usize;
        Some(Duration::from_micros(u64::from(self.0[index])))
    }
}
