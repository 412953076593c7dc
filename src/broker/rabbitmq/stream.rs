//! Declares the stream (checks the one that exists, or creates it) and consumes it.
//!
//! A queue that exists is never changed: its arguments are the operator's, and those of two pods
//! may differ.

use std::time::Duration;

use lapin::{
    Consumer,
    options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{cause::Cause, client::Client, topic::Topic};

/// How much longer than the window a new stream retains events: enough for a pod that was away.
const SPARE: Duration = Duration::from_secs(600);

/// Size of the files of a new stream. Old events are deleted by whole files.
const SEGMENT_BYTES: i64 = 50_000_000;

/// What is known about how long the stream retains events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// At least the window.
    Window,
    /// Unknown, since the user may not ask.
    Unknown,
}

/// Makes sure that the stream exists and retains the window.
pub(super) async fn declare(client: &Client, topic: &Topic, window: Duration) -> Result<Retention, Cause> {
    if let Some(retention) = inspect(client, topic, window).await? {
        return Ok(retention);
    }
    // Another pod may create it at the same time, with other arguments.
    match create(client, topic, window).await {
        Err(differs) if differs.code == Some(406) => retention(client, topic, window).await,
        created => created.map(|()| Retention::Window),
    }
}

/// Checks the stream, if there is one. While the node of a stream starts, RabbitMQ answers 404 as
/// well, with another text. Then the stream must not be created.
pub(super) async fn inspect(
    client: &Client,
    topic: &Topic,
    window: Duration,
) -> Result<Option<Retention>, Cause> {
    let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
    match ask(client, topic, passive, FieldTable::default()).await {
        Err(missing) if missing.code == Some(404) && missing.what.contains("no queue '") => Ok(None),
        Err(refused) => Err(refused),
        Ok(()) => retention(client, topic, window).await.map(Some),
    }
}

/// Creates the stream. Nothing changes if it exists with the same arguments.
async fn create(client: &Client, topic: &Topic, window: Duration) -> Result<(), Cause> {
    let mut arguments = FieldTable::default();
    let age = format!("{}s", (window + SPARE).as_secs());
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-age".into(), AMQPValue::LongString(age.into()));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT_BYTES));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    ask(client, topic, durable, arguments).await
}

/// Checks the queue that exists. RabbitMQ names an argument only in the refusal of another one.
async fn retention(client: &Client, topic: &Topic, window: Duration) -> Result<Retention, Cause> {
    let Err(refused) = create(client, topic, window).await else { return Ok(Retention::Window) };
    match refused.code {
        Some(403) => return Ok(Retention::Unknown),
        Some(406) => {}
        _ => return Err(refused),
    }
    let text = refused.what;
    if text.contains("'x-queue-type'") || text.contains("'durable'") {
        let stream = &topic.stream;
        let what = format!("the queue {stream} exists and is not a durable stream");
        return Err(Cause::new(what, "delete it, or name another with ?stream="));
    }
    match max_age(&text) {
        Some((age, written)) if age < window => Err(Cause::new(
            format!(
                "the stream {} retains events for {written} only, and the window is {} s",
                topic.stream,
                window.as_secs()
            ),
            "delete the stream, or lower RELAY_REPLAY_WINDOW",
        )),
        _ => Ok(Retention::Window),
    }
}

/// Consumes the stream from this offset. The broker sends at most `prefetch` messages before their
/// acknowledgement.
pub(super) async fn consume(
    client: &Client,
    topic: &Topic,
    offset: AMQPValue,
    prefetch: u16,
) -> Result<Consumer, Cause> {
    let channel = client.channel().await?;
    client.step(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), offset);
    let (stream, options) = (topic.stream.as_str().into(), BasicConsumeOptions::default());
    client.step(channel.basic_consume(stream, "".into(), options, arguments)).await
}

/// Declares on a channel of its own, since a refusal ends the channel.
async fn ask(
    client: &Client,
    topic: &Topic,
    options: QueueDeclareOptions,
    arguments: FieldTable,
) -> Result<(), Cause> {
    let channel = client.channel().await?;
    client.step(channel.queue_declare(topic.stream.as_str().into(), options, arguments)).await?;
    client.step(channel.close(200, "".into())).await
}

/// Returns the age, and how it is written, from a refusal of another `x-max-age`; `None` if the
/// refusal names none.
fn max_age(refusal: &str) -> Option<(Duration, &str)> {
    let (_, rest) = refusal.split_once("'x-max-age'")?;
    let (_, current) = rest.split_once("current is ")?;
    let written = current.split('\'').nth(1)?;
    let unit = written.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = written.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "Y" => 365 * 86_400,
        "M" => 30 * 86_400,
        "D" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    Some((Duration::from_secs(number.checked_mul(seconds)?), written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_age_of_existing_stream() {
        let refusal = |current: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': received {current}"
            )
        };
        let age = |current: &str| max_age(&refusal(current)).map(|(age, _)| age.as_secs());
        assert_eq!(age("'1200s' but current is '60s'"), Some(60));
        assert_eq!(age("'1200s' but current is '2h'"), Some(7_200));
        assert_eq!(age("none but current is the value '1D' of type 'longstr'"), Some(86_400));
        assert_eq!(age("the value '1200s' of type 'longstr' but current is none"), None);
        assert_eq!(age("'1200s' but current is '60w'"), None);
    }
}
