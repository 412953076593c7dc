//! Writes and parses times as RFC 3339 text, for the topic, logs and responses.
//!
//! One range holds for all of them: a time before 1970 or after the year 9999 has no text. Nothing
//! here may read a clock.

use std::time::SystemTime;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The first second of the year 10000.
pub(crate) const YEAR_10000: u64 = 253_402_300_800;

/// Writes a time in UTC; `None` if it has no text.
#[must_use]
pub(crate) fn write(time: SystemTime) -> Option<String> {
    let time = Some(time).filter(|time| is_representable(*time))?;
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}

/// Writes a time in UTC with three fraction digits, so that texts sort as times do; `None` if it
/// has no text.
#[must_use]
pub(crate) fn write_millis(time: SystemTime) -> Option<String> {
    let text = write(time)?;
    let (seconds, _) = text.split_at_checked(19)?;
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.subsec_millis();
    Some(format!("{seconds}.{millis:03}Z"))
}

/// Parses a time with any offset; `None` if the text is not a time, or one that [`write()`] would
/// not write.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(&text.to_ascii_uppercase(), &Rfc3339).ok()?;
    Some(time.into()).filter(|time| is_representable(*time))
}

fn is_representable(time: SystemTime) -> bool {
    time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < YEAR_10000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_without_text_are_left_out() {
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_10000 - 1);
        assert_eq!(write(last).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(write(last + Duration::from_secs(1)), None);
        assert_eq!(write(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), None);
    }

    #[test]
    fn millis_have_three_digits() {
        let at = |nanos| write_millis(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(at(1_234_567_890).as_deref(), Some("1970-01-01T00:00:01.234Z"));
        assert_eq!(write_millis(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), None);
    }

    proptest! {
        #[test]
        fn every_parsed_time_can_be_written(
            text in prop_oneof![
                "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{0,12})?(Z|[+-][0-2][0-9]:[0-5][0-9])",
                "\\PC{0,40}",
            ],
        ) {
            if let Some(time) = parse(&text) {
                prop_assert_eq!(parse(&write(time).unwrap()), Some(time));
            }
        }
    }
}
