//! Cost of each part of the hot path, measured alone: `cargo bench`.
//!
//! Use it after a change of one part. `benches/load` measures what a user notices; these figures
//! must never replace it.

#![allow(missing_docs, reason = "criterion's macros make items without any")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run fails by a panic")]

#[path = "relay/plans.rs"]
mod plans;
#[path = "relay/watchers.rs"]
mod watchers;

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pubsub_relay::{
    event::cloudevent,
    web::transport::ws::{
        frame,
        protocol::{Action, Dialect, Protocol},
    },
};
use tokio::runtime::{Builder, Runtime};

use self::watchers::{Watchers, event};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Measures the encoding of an event for Pub/Sub, and its decoding.
fn codec(criterion: &mut Criterion) {
    let event = event();
    criterion
        .bench_function("codec/encode", |bencher| bencher.iter(|| cloudevent::encode(black_box(&event))));
    let attributes = cloudevent::encode(&event);
    criterion.bench_function("codec/decode", |bencher| {
        bencher.iter(|| {
            let attribute = |name: &str| attributes.get(name).map(String::as_str);
            cloudevent::decode(attribute, event.data.clone(), event.published).unwrap()
        });
    });
}

/// Measures the way of an event to the send queues: read, look up, execute, encode, queue.
fn dispatch(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("dispatch");
    for (name, matching, others) in [
        ("execute and encode, 1 watcher", 1, 0),
        ("100 of 100 match", 100, 0),
        ("100 of 10000 match", 100, 9_900),
    ] {
        let mut watchers = Watchers::new();
        runtime.block_on(watchers.enter("ZOLO", matching));
        runtime.block_on(watchers.enter("ZELO", others));
        group.throughput(Throughput::Elements(matching as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert_eq!(runtime.block_on(watchers.dispatch(event())), matching);
                watchers.send_queues.iter().map(|send_queue| send_queue.take().len()).sum::<usize>()
            });
        });
    }
}

/// Measures the protocol: a client's text in, a result's frame out.
fn protocol(criterion: &mut Criterion) {
    let subscribe = r#"{"type":"subscribe","id":"c4b1","payload":{"query":"subscription W { templateAdded { id name } }"}}"#;
    let acknowledged = || {
        let mut protocol = Protocol::new(Dialect::Transport, 64);
        protocol.on_text(r#"{"type":"connection_init"}"#);
        protocol.acknowledged(None);
        protocol
    };
    criterion.bench_function("protocol/subscribe", |bencher| {
        let mut protocol = acknowledged();
        bencher.iter(|| {
            let action = protocol.on_text(black_box(subscribe));
            assert!(matches!(action, Action::Start { .. }));
            protocol.completed("c4b1")
        });
    });
    let Action::Start { head, .. } = acknowledged().on_text(subscribe) else { panic!("not started") };
    let payload = "x".repeat(250);
    criterion.bench_function("protocol/frame", |bencher| {
        let mut frames = Vec::new();
        bencher.iter(|| {
            frames.clear();
            frame::text(&mut frames, [black_box(&head), black_box(&payload), "}"]);
        });
    });
}

criterion_group! {
    name = benches;
    // Short by default: enough to see a change of 10 %.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = codec, dispatch, protocol, plans::plans
}
criterion_main!(benches);
