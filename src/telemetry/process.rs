//! What the process itself takes and which build it is, for dashboards and for the figures per connection.
//!
//! Read from Linux' `/proc` when somebody asks; elsewhere there is nothing to see.

use std::fs;

use opentelemetry::{KeyValue, metrics::Meter};

/// The kernel's clock tick as it shows it to programs: 1/100 s on every architecture (`man 7 time`, `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

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

fn observe_if<T>(value: Option<T>, observe: impl FnOnce(T)) {
    if let Some(value) = value {
        observe(value);
    }
}

/// In bytes.
fn memory_usage() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<u64>().ok()? << 10)
}

/// In seconds, of user and system together.
fn cpu_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name before the last parenthesis may hold anything; user and system time are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_memory_and_time() {
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
