//! Checks the standard's `OTEL_*` variables that OpenTelemetry's library reads by itself.
//!
//! The library replaces a value that it cannot read by its default, without a word. It must never
//! refuse what the library accepts.

use std::ffi::OsStr;

use super::reader::Environment;

/// Variables that hold a whole number: times in milliseconds, sizes and limits.
const NUMBERS: [&str; 17] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
];

/// Variables that hold one of a few words.
const WORDS: [(&[&str], &[&str]); 2] = [
    (
        &["OTEL_TRACES_SAMPLER"],
        &[
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ],
    ),
    (
        &[
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        ],
        &["grpc", "http/protobuf"],
    ),
];

/// Returns the problems of these variables, each with the variable's name.
pub(super) fn problems(environment: &Environment) -> Vec<String> {
    let value = |name: &str| {
        let value = environment.get(OsStr::new(name))?.to_str().unwrap_or("\u{fffd}").trim();
        Some(value.to_owned()).filter(|value| !value.is_empty())
    };
    let mut problems = Vec::new();
    for name in NUMBERS {
        if value(name).is_some_and(|value| value.parse::<u64>().is_err()) {
            problems.push(format!("{name} is not a whole number: write it like 5000, without a unit"));
        }
    }
    for (names, words) in WORDS {
        for name in names {
            if value(name).is_some_and(|value| !words.contains(&&*value)) {
                problems.push(format!("{name} is not readable: write one of {}", words.join(", ")));
            }
        }
    }
    let ratio = "OTEL_TRACES_SAMPLER_ARG";
    let is_ratio = |value: String| value.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
    if value(ratio).is_some_and(|value| !is_ratio(value)) {
        problems.push(format!("{ratio} is not a ratio: write a number from 0 to 1"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_variable_is_problem() {
        let of = |name: &str, value: &str| problems(&[(name.into(), value.into())].into());
        for (name, right, wrong) in [
            ("OTEL_BSP_SCHEDULE_DELAY", "500", "5s"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "", "-1"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25", "25%"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "http"),
        ] {
            assert_eq!(of(name, right), [""; 0]);
            let problems = of(name, wrong);
            assert!(matches!(&problems[..], [problem] if problem.starts_with(name)), "{problems:?}");
            assert!(!problems[0].contains(wrong) || wrong == "http", "a value is never repeated");
        }
    }
}
