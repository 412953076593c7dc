//! What is counted of connections.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use super::{super::transport::Transport, End};
use crate::telemetry::{LATENCY_BUCKETS, Refusals};

pub(super) struct Instruments {
    pub(super) connections: UpDownCounter<i64>,
    ends: Counter<u64>,
    /// By transport, at its place in [`Transport::ALL`].
    written: Arc<[Written; Transport::ALL.len()]>,
    pub(super) latency: Histogram<f64>,
    pub(super) refusals: Refusals,
}

/// What was written to sockets. Counted here and read when somebody asks: a counter of the library's looks its labels up at
/// every write, once for each reader of the metrics.
#[derive(Default)]
struct Written {
    deliveries: AtomicU64,
    bytes: AtomicU64,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let written = Arc::<[Written; Transport::ALL.len()]>::default();
        observe(meter, &written);
        let instruments = Self {
            connections: meter
                .i64_up_down_counter("relay.connections")
                .with_description("Connections now, by transport.")
                .build(),
            ends: meter
                .u64_counter("relay.connection.ends")
                .with_description("Connections that ended, by transport and reason.")
                .build(),
            written,
            latency: meter
                .f64_histogram("relay.delivery.latency")
                .with_unit("s")
                .with_boundaries(LATENCY_BUCKETS.to_vec())
                .with_description(
                    "From the topic's acknowledgement of an event to its write to a socket, by write.",
                )
                .build(),
            refusals: Refusals::new(meter),
        };
        instruments.begin();
        instruments
    }

    /// From the beginning: an autoscaler takes a gauge that does not exist for one that is broken, and the first increase of
    /// a counter would be none to whoever watches it.
    fn begin(&self) {
        for transport in Transport::ALL {
            let transport = KeyValue::new("transport", transport.name());
            self.connections.add(0, std::slice::from_ref(&transport));
            for end in [End::Lost, End::Dead, End::Slow, End::Full, End::Crowded] {
                self.ends.add(0, &[transport.clone(), KeyValue::new("reason", end.reason())]);
            }
        }
    }

    /// So many deliveries were written together.
    pub(super) fn wrote(&self, transport: Transport, deliveries: usize, bytes: usize) {
        let written = &self.written[transport as usize];
        written.deliveries.fetch_add(deliveries as u64, Ordering::Relaxed);
        written.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn end(&self, transport: &[KeyValue; 1], end: &End) {
        self.ends.add(1, &[transport[0].clone(), KeyValue::new("reason", end.reason())]);
        if let Some(limit) = end.limit() {
            self.refusals.count(limit);
        }
    }
}

fn observe(meter: &Meter, written: &Arc<[Written; Transport::ALL.len()]>) {
    let counter = |name, unit, description, value: fn(&Written) -> &AtomicU64| {
        let written = written.clone();
        let counter = meter.u64_observable_counter(name).with_unit(unit).with_description(description);
        counter
            .with_callback(move |counter| {
                for (transport, written) in Transport::ALL.iter().zip(&*written) {
                    let transport = KeyValue::new("transport", transport.name());
                    counter.observe(value(written).load(Ordering::Relaxed), &[transport]);
                }
            })
            .build();
    };
    counter("relay.deliveries", "", "Events written to sockets, by transport.", |written| {
        &written.deliveries
    });
    counter(
        "relay.delivered",
        "By",
        "Results written to sockets, without what transports put around them, by transport.",
        |written| &written.bytes,
    );
}
