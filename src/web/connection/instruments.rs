//! [`Instruments`]: metrics of connections, their ends, and what was written to them.
//!
//! Labels are the transport and the reason. They must never be an id, or the number of series would
//! have no bound.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Meter, UpDownCounter},
};

use super::{end::End, transport::Transport};
use crate::telemetry::{LATENCY_BUCKETS, Refusals};

/// Metrics of the connections of one pod.
pub(super) struct Instruments {
    pub(super) connections: UpDownCounter<i64>,
    ends: Counter<u64>,
    /// By transport, in the order of [`Transport::ALL`].
    written: [WriteMetrics; Transport::ALL.len()],
    pub(super) refusals: Refusals,
}

/// Metrics of what was written to sockets, bound to one transport. Unbound, each write would look
/// up the label once for each reader of the metrics.
struct WriteMetrics {
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
        instruments.create_series();
        instruments
    }

    /// Creates the series with the value 0. An autoscaler takes a missing gauge for a broken one.
    /// The first increase of a counter is invisible if the counter did not exist before.
    fn create_series(&self) {
        for transport in Transport::ALL {
            let transport = transport.label();
            self.connections.add(0, std::slice::from_ref(&transport));
            for end in [
                End::Lost,
                End::Dead,
                End::Slow,
                End::Behind,
                End::Full,
                End::Crowded,
                End::Overloaded,
                End::Late,
                End::TooManyOperations,
                End::NoRoom,
            ] {
                self.ends.add(0, &[transport.clone(), KeyValue::new("reason", end.reason())]);
            }
        }
    }

    /// Records that deliveries were written together. `latency` runs from the topic's
    /// acknowledgement of the one that waited longest. It is `None` if none of them is live.
    pub(super) fn record_write(
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

    pub(super) fn end(&self, transport: Transport, end: &End) {
        self.ends.add(1, &[transport.label(), KeyValue::new("reason", end.reason())]);
        if let Some(limit) = end.limit() {
            self.refusals.count(limit);
        }
    }
}

fn written(meter: &Meter) -> [WriteMetrics; Transport::ALL.len()] {
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
        let label = [transport.label()];
        let written = WriteMetrics {
            deliveries: deliveries.bind(&label),
            bytes: bytes.bind(&label),
            latency: latency.bind(&label),
        };
        // At 0 from the beginning, since the first increase of a missing counter is invisible.
        written.deliveries.add(0);
        written.bytes.add(0);
        written
    })
}
