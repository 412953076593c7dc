//! Number of allocations for an event and for each of its deliveries: a guard of the hot path.
//!
//! Unlike a duration, a count does not depend on the machine. The test is a binary of its own
//! because it replaces the global allocator. It must never run other code in parallel with the
//! measurement.
//!
//! A binary of its own, because it counts with a global allocator of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../benches/relay/watchers.rs"]
mod watchers;

use std::time::Duration;

use pubsub_relay::web::transport::ws::frame;
use tokio::{runtime::Builder, time::Instant};

use self::watchers::{Watchers, event, order};

/// Limit of allocations per delivery: none, since a send queue has room for one result. The rest is
/// for rounding.
const MAX_PER_DELIVERY: f64 = 0.01;

/// Limit of allocations per event: decoding, the window, the look-up, one execution, its JSON.
const MAX_PER_EVENT: f64 = 120.0;

/// Returns the number of allocations for one event that this many watchers receive, after a
/// warm-up.
fn allocations(watchers: usize) -> f64 {
    const EVENTS: u32 = 50;
    let head = r#"{"type":"next","id":"1","payload":"#;
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let mut pod = Watchers::new();
    runtime.block_on(pod.enter("ZOLO", watchers));
    let mut frames = Vec::new();
    let mut deliver = || {
        assert_eq!(runtime.block_on(pod.dispatch(event())), watchers);
        for delivery in pod.send_queues.iter().flat_map(|send_queue| send_queue.take()) {
            frames.clear();
            frame::text(&mut frames, [head, &delivery.result.payload, "}"]);
            assert!(frames.ends_with(b"}"));
        }
    };
    deliver();
    let counted = allocation_counter::measure(|| (0..EVENTS).for_each(|_| deliver()));
    counted.count_total as f64 / f64::from(EVENTS)
}

#[test]
fn delivery_allocates_nothing() {
    let (few, many) = (allocations(100), allocations(1_100));
    let each = (many - few) / 1_000.0;
    let event = few - 100.0 * each;
    assert!(each <= MAX_PER_DELIVERY, "{each} allocations a delivery");
    assert!(event <= MAX_PER_EVENT, "{event} allocations an event");
}

/// Limit of bytes of a watcher with an argument of its own, beyond its connection.
const MAX_WATCHER: f64 = 512.0;

/// Limit of the cost of an event among 100,000 such watchers, as a multiple of that among 100.
const MAX_GROWTH: f64 = 1.2;

/// Returns a pod with this many watchers, each of an order of its own, and the bytes of each.
fn watchers_of_orders(count: usize) -> (Watchers, f64) {
    let mut pod = Watchers::orders();
    // What all watchers share is no part of any of them
    pod.watch_orders(1, |add| add());
    let mut bytes = 0;
    pod.watch_orders(count, |add| bytes = allocation_counter::measure(add).bytes_current);
    (pod, bytes as f64 / count as f64)
}

#[test]
fn watcher_of_one_order_is_small() {
    let (_, bytes) = watchers_of_orders(5_000);
    assert!(bytes <= MAX_WATCHER, "{bytes} bytes a watcher");
}

/// Returns the time of each of these events, each for one watcher.
fn times(pod: &Watchers, numbers: impl Iterator<Item = usize>) -> Duration {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let events: Vec<_> = numbers.map(|number| (number, order(number))).collect();
    let count = u32::try_from(events.len()).unwrap();
    let began = Instant::now();
    for (number, event) in events {
        assert!(runtime.block_on(pod.dispatch(event)) > 0);
        assert_eq!(pod.send_queues[number].take().len(), 1);
    }
    began.elapsed() / count
}

#[test]
#[ignore = "times are of use in a release build only: see docs/PERFORMANCE.md"]
fn event_among_many_orders_costs_little_more() {
    const ROUNDS: usize = 9;
    let ((few, _), (many, bytes)) = (watchers_of_orders(100), watchers_of_orders(100_000));
    let mut ratios = Vec::new();
    let mut shortest = [Duration::MAX; 2];
    for round in 0..ROUNDS {
        let alone = times(&few, (0..10_000).map(|n| n % 100));
        let crowd = times(&many, (0..10_000).map(|n| (n * 7 + round) % 100_000));
        ratios.push(crowd.as_secs_f64() / alone.as_secs_f64());
        shortest = [shortest[0].min(alone), shortest[1].min(crowd)];
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    println!("100,000 watchers, each of another order: {bytes:.0} bytes a watcher");
    println!("an event for one: {:?} among 100, {:?} among 100,000", shortest[0], shortest[1]);
    println!("ratio: {ratio:.2} ({:.2}-{:.2})", ratios[0], ratios[ROUNDS - 1]);
    assert!(bytes <= MAX_WATCHER, "{bytes} bytes a watcher");
    assert!(ratio <= MAX_GROWTH, "{ratio} times the cost");
}
