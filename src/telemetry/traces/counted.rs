//! [`Counted`]: counts the outcomes of spans on their way to the collector.
//!
//! OpenTelemetry's library does not show them. It must never change what passes through it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span as SdkSpan, SpanData, SpanExporter, SpanProcessor},
};

use crate::telemetry::export::Outage;

/// Numbers of spans of this process, by outcome.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Spans that ended.
    pub(super) ended: AtomicU64,
    /// Spans that the collector accepted.
    pub(super) exported: AtomicU64,
    /// Spans that could not be exported.
    pub(super) failed: AtomicU64,
    outage: Outage,
}

/// Wrapper of an exporter or a processor that counts the spans that pass through it.
pub(super) struct Counted<T> {
    pub(super) inner: T,
    pub(super) counts: Arc<Counts>,
}

impl<T: fmt::Debug> fmt::Debug for Counted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exported = self.inner.export(batch).await;
        self.counts.outage.note("traces", None, &exported);
        let count = if exported.is_ok() { &self.counts.exported } else { &self.counts.failed };
        count.fetch_add(spans, Ordering::Relaxed);
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: SpanProcessor> SpanProcessor for Counted<P> {
    fn on_start(&self, span: &mut SdkSpan, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
