//! `relay doctor` of a topic in RabbitMQ: each planted fault is found, with its cure.
//!
//! It must never report a fault of a healthy stream, create one, or leave a connection behind.

use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};

use crate::{
    doctor::{Report, doctor},
    support::{
        Kind, PATIENCE, Setup, Topic, eventually, free_ports,
        rabbitmq::{self, Node},
    },
};

/// Returns a doctor of this stream, as the user whose password is its name.
fn examine(address: &str, user: &str) -> Setup {
    doctor(&[])
        .set("RELAY_BROKER", format!("amqp://{address}"))
        .set("RELAY_BROKER_USER", user)
        .set("RELAY_BROKER_PASSWORD", user)
}

/// Stream of its own on the node of this binary.
struct Stream {
    node: &'static Node,
    name: String,
}

impl Stream {
    async fn new(test: &str) -> Option<Self> {
        let node = rabbitmq::shared(test).await?;
        Some(Self { node, name: format!("relay.{}", uuid::Uuid::now_v7().simple()) })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.node.port)
    }

    /// Declares a durable queue of this name.
    async fn declare(&self, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let (_connection, channel) = rabbitmq::channel(&self.host()).await;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(self.name.as_str().into(), durable, table).await.unwrap();
    }

    async fn report(&self, user: &str) -> Report {
        Report::of(examine(&format!("{}/%2f?stream={}", self.host(), self.name), user)).await
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_only_the_missing_stamp() {
    let Some(topic) = Topic::at(Kind::RabbitMq).await else { return };
    let pod = Setup::new("pod").topic(&topic).set("RELAY_HEARTBEAT_INTERVAL", "1s").start().await;
    let report = Report::of(doctor(&[]).topic(&topic)).await;
    // This node is of a release that cannot stamp.
    let line = report.only_wrong("stamp");
    assert!(line.contains("message_interceptors.incoming.set_header_timestamp"), "{line}");
    for check in ["server", "stream", "publish", "receive", "routing"] {
        assert!(report.line(check).starts_with("ok "), "{}", report.text);
    }
    for check in ["clock", "replicas", "keys", "drain", "addresses", "balancer"] {
        assert!(report.line(check).starts_with("skipped "), "{}", report.text);
    }
    eventually("no connection is left", PATIENCE, async || {
        topic.feeds_of("doctor").await.is_empty().then_some(())
    })
    .await;
    assert!((pod.metric("relay_membership_pods").await - 1.0).abs() < 0.5, "the doctor is no member");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_absent_rabbitmq_and_wrong_login() {
    let report = Report::of(examine(&format!("127.0.0.1:{}", free_ports(1)), "relay")).await;
    assert!(report.only_wrong("server").contains("check that the broker runs"), "{}", report.text);
    assert!(report.line("stream").starts_with("skipped"), "{}", report.text);
    let Some(stream) = Stream::new("a wrong login").await else { return };
    let report = stream.report("unknown").await;
    assert!(report.only_wrong("server").contains("RELAY_BROKER_PASSWORD"), "{}", report.text);
    let report = Report::of(examine(&format!("{}/nowhere", stream.host()), "relay")).await;
    assert!(report.only_wrong("server").contains("create the virtual host nowhere"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_and_other_queues() {
    let Some(stream) = Stream::new("other queues").await else { return };
    let report = stream.report("relay").await;
    let line = report.only_wrong("stream");
    assert!(line.contains("there is no stream") && line.contains("start a pod"), "{line}");
    assert!(report.line("publish").starts_with("skipped"), "{}", report.text);
    assert!(stream.report("relay").await.line("stream").starts_with("WRONG"), "the doctor creates none");

    stream.declare(&[]).await;
    let report = stream.report("relay").await;
    assert!(report.only_wrong("stream").contains("is not a durable stream"), "{}", report.text);

    let Some(short) = Stream::new("a short stream").await else { return };
    short.declare(&[("x-queue-type", text("stream")), ("x-max-age", text("60s"))]).await;
    let report = short.report("relay").await;
    let line = report.only_wrong("stream");
    assert!(line.contains("retains events for 60s only") && line.contains("RELAY_REPLAY_WINDOW"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_right_to_publish() {
    let Some(stream) = Stream::new("a reader").await else { return };
    stream.declare(&[("x-queue-type", text("stream")), ("x-max-age", text("1200s"))]).await;
    let report = stream.report("reader").await;
    assert!(report.line("stream").starts_with("skipped"), "{}", report.text);
    let line = report.line("publish");
    assert!(
        line.starts_with("WRONG") && line.contains("give the user reader the rights of docs/RABBITMQ.md"),
        "{line}"
    );
    assert!(report.line("receive").starts_with("skipped"), "{}", report.text);
}
