//! Tally of deliveries: their number, their latency, and whether each watcher got the right events.
//!
//! Every delivery is checked by the number in it: an unchecked count would reward a server that
//! loses events. It must never count a delivery that it did not check.

use std::time::Duration;

use tokio::time::Instant;

/// Number of events by which one may overtake another on its way to a watcher: more than are ever
/// in flight.
const REORDER: usize = 512;

/// Deliveries that went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Deliveries that never came.
    pub(crate) missing: u64,
    /// Deliveries that came twice.
    pub(crate) duplicate: u64,
    /// Deliveries to the wrong watcher, texts that are no event, failed mutations, and ends of
    /// connections.
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

/// Events that one watcher has received.
pub(crate) struct Seen {
    /// First event that is still awaited: all before it came or are missing.
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

    /// Records an event. Returns whether it is new, and how many earlier events can no longer come.
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

    /// Moves on by one event and returns whether that event came.
    fn step(&mut self) -> bool {
        let (word, bit) = Self::bit(self.next);
        let came = self.ahead[word] & bit != 0;
        self.ahead[word] &= !bit;
        self.next += 1;
        came
    }

    /// Returns how many of the first `published` events never came.
    pub(crate) fn missing(&self, published: u32) -> u64 {
        let ahead: u32 = self.ahead.iter().map(|word| word.count_ones()).sum();
        u64::from(published.saturating_sub(self.next)).saturating_sub(u64::from(ahead))
    }
}

/// Deliveries of all watchers.
pub(crate) struct Tally {
    /// Time at which each event was published, or was due if events are paced. The index is its
    /// number.
    published: Vec<Instant>,
    /// Number of watchers that have each event.
    arrived: Vec<u32>,
    /// Number of watchers that every event matches.
    pub(crate) expected: u32,
    /// Number of events that all of them have.
    pub(crate) completed: u32,
    pub(crate) deliveries: u64,
    pub(crate) frame_bytes: usize,
    pub(crate) faults: Faults,
    /// Latencies in microseconds, recorded while [`Self::is_timing`].
    latencies: Vec<u32>,
    pub(crate) is_timing: bool,
    /// Offset of the number in the last frame, in bytes.
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

    /// Returns the number of published events.
    pub(crate) fn published(&self) -> u32 {
        u32::try_from(self.published.len()).expect("a run publishes fewer than 4 billion events")
    }

    /// Records a new event and returns its number.
    pub(crate) fn publish(&mut self, at: Instant) -> u32 {
        let number = self.published();
        self.published.push(at);
        self.arrived.push(0);
        number
    }

    /// Returns the number of events that some watcher still waits for.
    pub(crate) fn in_flight(&self) -> u32 {
        if self.expected == 0 { 0 } else { self.published() - self.completed }
    }

    /// Records a frame that reached a watcher.
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

    /// Returns the latencies since the last call, in ascending order.
    pub(crate) fn latencies(&mut self) -> Latencies {
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        Latencies(latencies)
    }
}

/// Latencies in microseconds, in ascending order.
#[derive(Clone)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    /// Returns the latency that this share of deliveries does not exceed, or `None` without
    /// deliveries.
    pub(crate) fn percentile(&self, share: f64) -> Option<Duration> {
        let last = self.0.len().checked_sub(1)?;
        let index = (last as f64 * share).round() as usize;
        Some(Duration::from_micros(u64::from(self.0[index])))
    }
}
