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

use pubsub_relay::web::transport::ws::frame;
use tokio::runtime::Builder;

use self::watchers::{Watchers, event};

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
