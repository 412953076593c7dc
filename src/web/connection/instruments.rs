//! What is counted of connections.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Meter, UpDownCounter},
};

use super::{end::End, transport::Transport};
use crate::telemetry::{LATENCY_BUCKETS, Refusals};

pub(super) struct Instruments {
    pub(super) connections: UpDownCounter<i64>,
    ends: Counter<u64>,
    /// By transport, at its place in [`Transport::ALL`].
    written: [Written; Transport::ALL.len()],
    pub(super) refusals: Refusals,
}

/// What was written to sockets. Bound to its transport, or every write would look the label up once for each reader of the
/// metrics.
struct Written {
    deliveries: BoundCounter<u64>,
    bytes: BoundCounter<u64>,
    latency: BoundHistogram<f64>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let instruments = Self {
            connections: meter
                .i64_up_down_counter("relay.connections")
                .with_description("Connections now, by transport.")
                .build(),
            ends: meter
                .u64_counter("relay.connection.ends")
                .with_description("Connections that ended, by transport and reason.")
                .build(),
            written: written(meter),
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

    /// So many deliveries were written together, so long after the topic had the one that waited longest, if one is live.
    pub(super) fn wrote(
        &self,
        transport: Transport,
        deliveries: usize,
        bytes: usize,
        latency: Option<Duration>,
    ) {
        let written = &self.written[transport as usize];
        written.deliveries.add(deliveries as u64);
        written.bytes.add(bytes as u64);
        if let Some(latency) = latency {
            written.latency.record(latency.as_secs_f64());
        }
    }

    pub(super) fn end(&self, transport: &[KeyValue; 1], end: &End) {
        self.ends.add(1, &[transport[0].clone(), KeyValue::new("reason", end.reason())]);
        if let Some(limit) = end.limit() {
            self.refusals.count(limit);
        }
    }
}

fn written(meter: &Meter) -> [Written; Transport::ALL.len()] {
    let deliveries = meter
        .u64_counter("relay.deliveries")
        .with_description("Events written to sockets, by transport.")
        .build();
    let bytes = meter
        .u64_counter("relay.delivered")
        .with_unit("By")
        .with_description(
            "Results written to sockets, without what transports put around them, by transport.",
        )
        .build();
    let latency = meter
        .f64_histogram("relay.delivery.latency")
        .with_unit("s")
        .with_boundaries(LATENCY_BUCKETS.to_vec())
        .with_description("From the topic's acknowledgement of an event to its write to a socket, by write.")
        .build();
    Transport::ALL.map(|transport| {
        let label = [KeyValue::new("transport", transport.name())];
        let written = Written {
            deliveries: deliveries.bind(&label),
            bytes: bytes.bind(&label),
            latency: latency.bind(&label),
        };
        // From the beginning, or the first increase would be no increase to whoever watches it.
        written.deliveries.add(0);
        written.bytes.add(0);
        written
    })
}
