//! Metrics of the process itself: its version, memory and CPU time, for dashboards.
//!
//! Linux' `/proc` is read whenever the metrics are read. On other systems, memory and CPU time are
//! missing. A failure here must never hide the other metrics.

use std::fs;

use opentelemetry::{KeyValue, metrics::Meter};

/// Clock ticks per second, as the kernel shows them to programs: 100 on every architecture (`man 7
/// time`, `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers the metrics of the process.
pub(super) fn observe(meter: &Meter) {
    let build = meter.u64_observable_gauge("relay.build.info").with_description("Always 1, by version.");
    build
        .with_callback(|gauge| gauge.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]))
        .build();
    let memory = meter
        .u64_observable_gauge("process.memory.usage")
        .with_unit("By")
        .with_description("Physical memory that the process takes.");
    memory.with_callback(|gauge| observe_if(memory_usage(), |bytes| gauge.observe(bytes, &[]))).build();
    let cpu = meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("Processor time that the process has taken.");
    cpu.with_callback(|counter| observe_if(cpu_time(), |seconds| counter.observe(seconds, &[]))).build();
}

/// Observes a value if there is one.
fn observe_if<T>(value: Option<T>, observe: impl FnOnce(T)) {
    if let Some(value) = value {
        observe(value);
    }
}

/// Returns the resident memory in bytes; `None` without `/proc`.
fn memory_usage() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<u64>().ok()? << 10)
}

/// Returns the CPU time in seconds, user and system together; `None` without `/proc`.
fn cpu_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The process's name, before the last parenthesis, may contain any character. User and system
    // time are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn process_takes_memory_and_time() {
        let taken = vec![1_u8; 64 << 20];
        assert!(memory_usage().unwrap() >= taken.len() as u64);
        let before = cpu_time().unwrap();
        let mut sum = 0_u64;
        while cpu_time().unwrap() < before + 0.02 {
            sum = taken.iter().map(|&byte| u64::from(byte)).sum();
        }
        assert_eq!(sum, taken.len() as u64);
    }
}
