//! What is counted of connections.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use super::{super::transport::Transport, End};
use crate::telemetry::{LATENCY_BUCKETS, Refusals};

pub(super) struct Instruments {
    pub(super) connections: UpDownCounter<i64>,
    ends: Counter<u64>,
    pub(super) deliveries: Counter<u64>,
    pub(super) delivered: Counter<u64>,
    pub(super) latency: Histogram<f64>,
    pub(super) refusals: Refusals,
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
            deliveries: meter
                .u64_counter("relay.deliveries")
                .with_description("Events written to sockets, by transport.")
                .build(),
            delivered: meter
                .u64_counter("relay.delivered")
                .with_unit("By")
                .with_description(
                    "Results written to sockets, without what transports put around them, by transport.",
                )
                .build(),
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
            self.deliveries.add(0, std::slice::from_ref(&transport));
            for end in [End::Lost, End::Dead, End::Slow, End::Full, End::Crowded] {
                self.ends.add(0, &[transport.clone(), KeyValue::new("reason", end.reason())]);
            }
        }
    }

    pub(super) fn end(&self, transport: &[KeyValue; 1], end: &End) {
        self.ends.add(1, &[transport[0].clone(), KeyValue::new("reason", end.reason())]);
        if let Some(limit) = end.limit() {
            self.refusals.count(limit);
        }
    }
}
