//! `relay doctor` finds each planted fault and names its cure. It reports no fault where all is
//! well, and leaves nothing behind.
//!
//! Operators trust its report before a rollout. It must never disturb the deployment that it
//! checks.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::PrivateKeyDer},
};
use uuid::Uuid;

use crate::support::{Fault, Metadata, PATIENCE, Service, Setup, State, Topic, eventually, free_ports};

/// Report of the doctor.
pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Report {
    pub(crate) async fn of(setup: Setup) -> Self {
        let output = setup.run().await;
        assert!(output.stderr.is_empty(), "{output:?}");
        Self { code: output.status.code(), text: String::from_utf8(output.stdout).unwrap() }
    }

    /// Returns the line of this check.
    pub(crate) fn line(&self, check: &str) -> &str {
        let is_it =
            |line: &&str| line.get(9..).is_some_and(|rest| rest.starts_with(&format!("{check:<12} ")));
        self.text.lines().find(is_it).unwrap_or_else(|| panic!("no line for {check}:\n{}", self.text))
    }

    /// Asserts that only this check is wrong, and returns its line.
    #[track_caller]
    pub(crate) fn only_wrong(&self, check: &str) -> &str {
        let wrong: Vec<&str> = self.text.lines().filter(|line| line.starts_with("WRONG")).collect();
        assert_eq!(wrong, [self.line(check)], "{}", self.text);
        assert_eq!(self.code, Some(1), "{}", self.text);
        wrong[0]
    }
}

pub(crate) fn doctor(arguments: &[&str]) -> Setup {
    let arguments: Vec<&str> = ["doctor"].iter().chain(arguments).copied().collect();
    Setup::new("doctor").command_line(&arguments).set("RELAY_HEARTBEAT_INTERVAL", "1s")
}

/// File that is deleted with the test.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("doctor-{}", Uuid::now_v7().simple()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_healthy_membership() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(Some("600s")).await;
    let pods = ["sound1", "sound2"]
        .map(|name| Setup::new(name).topic(&topic).set("RELAY_HEARTBEAT_INTERVAL", "1s").start());
    let pods = futures_util::future::join_all(pods).await;
    // Older than RELAY_ORPHAN_AFTER: without heartbeats these feeds would count as orphans.
    sleep(Duration::from_secs(2)).await;
    let token = File::new("ZOLO\n");
    let url = format!("ws://127.0.0.1:{}/graphql", pods[0].port());
    let arguments = ["--url", &url, "--token-file", token.path(), "--hold", "2s", "--grace", "60s"];
    let report = Report::of(doctor(&arguments).topic(&topic).set("RELAY_ORPHAN_AFTER", "2s")).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    for check in [
        "topic",
        "retention",
        "trial feed",
        "publish",
        "receive",
        "clock",
        "quota",
        "orphans",
        "drain",
        "balancer",
    ] {
        assert!(report.line(check).starts_with("ok "), "{}", report.text);
    }
    for check in ["permissions", "keys", "addresses"] {
        assert!(report.line(check).starts_with("skipped "), "{}", report.text);
    }
    assert!(report.line("permissions").ends_with("the emulator has no IAM"), "{}", report.text);
    assert!(report.line("orphans").ends_with("none among 2 feeds"), "{}", report.text);
    assert_eq!(topic.feeds_of("doctor").await, [""; 0], "nothing is left behind");
}

#[tokio::test]
async fn doctor_finds_missing_topic() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let report = Report::of(doctor(&[]).topic(&topic)).await;
    let line = report.only_wrong("topic");
    assert!(line.contains("Cure: start a pod") && line.contains("curl -X PUT"), "{line}");
}

#[tokio::test]
async fn doctor_finds_too_short_retention() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(None).await;
    let report = Report::of(doctor(&[]).topic(&topic)).await;
    assert!(report.only_wrong("retention").contains("the topic retains nothing"), "{}", report.text);

    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(Some("600s")).await;
    let report = Report::of(doctor(&[]).topic(&topic).set("RELAY_REPLAY_WINDOW", "20m")).await;
    assert!(
        report.only_wrong("retention").contains("retains 10m, but a pod reaches back 20m"),
        "{}",
        report.text
    );
}

#[tokio::test]
async fn doctor_finds_absent_emulator() {
    let host = format!("127.0.0.1:{}", free_ports(1));
    let setup = doctor(&[]).set("RELAY_BROKER", "pubsub://project/topic").set("PUBSUB_EMULATOR_HOST", &host);
    let report = Report::of(setup).await;
    assert_eq!(report.code, Some(1));
    let line = report.line("topic");
    assert!(line.starts_with("WRONG") && line.contains(&format!("start the emulator at {host}")), "{line}");
    assert!(report.line("orphans").starts_with("skipped"), "{}", report.text);
}

#[tokio::test]
async fn doctor_counts_only_feeds_of_dead_pods() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(Some("600s")).await;
    let pod = Setup::new("living").topic(&topic).set("RELAY_HEARTBEAT_INTERVAL", "1s").start().await;
    sleep(Duration::from_secs(2)).await;
    let mut orphans = Vec::new();
    for n in 0..12 {
        orphans.push(topic.make_orphan(&format!("dead{n}")).await);
    }
    let report = Report::of(doctor(&[]).topic(&topic).set("RELAY_ORPHAN_AFTER", "2s")).await;
    let line = report.only_wrong("orphans");
    assert!(line.contains("12 left by pods that have not sent a heartbeat for 2s"), "{line}");
    assert_eq!(orphans.iter().filter(|orphan| line.contains(*orphan)).count(), 10, "{line}");
    assert!(!line.contains(".living.") && !line.contains(".doctor."), "{line}");
    assert!(line.contains("curl -X DELETE"), "{line}");
    assert_eq!(topic.feeds_of("doctor").await, [""; 0], "nothing is left behind");
    drop(pod);
}

#[tokio::test]
async fn interrupted_doctor_leaves_nothing_behind() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(Some("600s")).await;
    topic.make_orphan("dead").await;
    // It waits for more than a minute for heartbeats of a dead pod.
    let mut doctor = doctor(&[]).topic(&topic).set("RELAY_HEARTBEAT_INTERVAL", "1m").launch();
    eventually("the trial feed is there", PATIENCE, async || {
        (topic.feeds_of("doctor").await.len() == 1).then_some(())
    })
    .await;
    doctor.signal("INT");
    assert_eq!(doctor.ended().await.code(), Some(1));
    assert!(doctor.output().contains("stopped before the end"), "{}", doctor.output());
    assert_eq!(topic.feeds_of("doctor").await, [""; 0]);
}

#[tokio::test]
async fn doctor_finds_unusable_keys() {
    let jwt = |source: &str| doctor(&[]).set("RELAY_AUTH", "jwt").set("RELAY_JWT_JWKS", source);
    for (content, problem) in [
        (r#"{"keys": "none"}"#, "not a JSON object with a list of keys"),
        (r#"{"keys": []}"#, "no usable key"),
    ] {
        let file = File::new(content);
        let output = jwt(file.path()).run().await;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("relay: RELAY_JWT_JWKS ") && text.contains(problem), "{text}");
    }
    let url = format!("http://127.0.0.1:{}/jwks.json", free_ports(1));
    let report = Report::of(jwt(&url)).await;
    assert!(report.only_wrong("keys").contains(&format!("curl --fail {url}")), "{}", report.text);
}

#[tokio::test]
async fn doctor_finds_drain_longer_than_grace() {
    let report = Report::of(doctor(&["--grace", "30s"])).await;
    let line = report.only_wrong("drain");
    assert!(
        line.contains("killed after 30s") && line.contains("terminationGracePeriodSeconds: 60"),
        "{line}"
    );
}

#[tokio::test]
async fn doctor_finds_settings_unfit_for_kubernetes() {
    let report = Report::of(doctor(&[]).set("POD_NAME", "relay-7d4f")).await;
    assert!(report.line("addresses").contains("Cure: RELAY_LISTEN=[::]:"), "{}", report.text);
    assert!(report.line("topic").contains("Cure: RELAY_BROKER=pubsub://"), "{}", report.text);
    assert_eq!(report.code, Some(1));
}

/// Starts a TCP server that handles each connection with `serve`. Returns its address.
pub(crate) async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve(socket));
        }
    });
    (address, tasks)
}

pub(crate) async fn head(socket: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read_buf(&mut head).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    head
}

/// Starts a balancer that cuts each connection a second after the doctor's first message. The
/// doctor, which counts from the handshake, sees at least that second.
#[tokio::test]
async fn doctor_finds_balancer_that_cuts_connections() {
    let (address, _tasks) = server(async |mut socket| {
        head(&mut socket).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-protocol: graphql-transport-ws\r\n\r\n";
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.read_u8().await.unwrap();
        sleep(Duration::from_secs(1)).await;
    })
    .await;
    let url = format!("ws://{address}/graphql");
    let token = File::new("ZOLO");
    let began = Instant::now();
    let report = Report::of(doctor(&["--url", &url, "--token-file", token.path(), "--hold", "20s"])).await;
    let line = report.only_wrong("balancer");
    let (_, cut) = line.split_once("a WebSocket was cut after ").expect(line);
    let after = humantime::parse_duration(cut.split_once(',').unwrap().0).unwrap();
    assert!(after >= Duration::from_secs(1) && after <= began.elapsed(), "{line}");
    assert!(line.contains("GCPBackendPolicy"), "{line}");
}

#[tokio::test]
async fn doctor_finds_url_without_pod() {
    let url = format!("ws://127.0.0.1:{}/graphql", free_ports(1));
    let report = Report::of(doctor(&["--url", &url])).await;
    assert!(report.only_wrong("balancer").contains("cannot be reached"), "{}", report.text);

    let (address, _tasks) = server(async |mut socket| {
        head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let report = Report::of(doctor(&["--url", &format!("ws://{address}/graphql")])).await;
    assert!(report.only_wrong("balancer").contains("no pod is ready"), "{}", report.text);
}

#[tokio::test]
async fn doctor_finds_untrusted_certificate() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config =
        config.with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _tasks) = server(move |socket| {
        let handshake = acceptor.accept(socket);
        async move { drop(handshake.await) }
    })
    .await;
    let url = format!("wss://localhost:{}/graphql", address.rsplit_once(':').unwrap().1);
    let report = Report::of(doctor(&["--url", &url])).await;
    let line = report.only_wrong("balancer");
    assert!(line.contains("cannot be reached") && line.contains("Cure: the certificate"), "{line}");
}

#[tokio::test]
async fn doctor_finds_refused_origin_and_token() {
    let pod = Setup::new("strict").set("RELAY_ALLOWED_ORIGINS", "https://app.example").start().await;
    let url = format!("ws://127.0.0.1:{}/graphql", pod.port());
    let visit = |origin| {
        let token = File::new("NO_USER");
        let setup =
            doctor(&["--url", &url, "--token-file", token.path()]).set("RELAY_ALLOWED_ORIGINS", origin);
        async move { (Report::of(setup).await, token) }
    };
    let (report, _token) = visit("https://other.example").await;
    let line = report.only_wrong("balancer");
    assert!(line.contains("https://other.example: name it in RELAY_ALLOWED_ORIGINS"), "{line}");
    let (report, _token) = visit("https://app.example").await;
    let line = report.only_wrong("balancer");
    assert!(line.contains("refuse the token") && !line.contains("NO_USER"), "{line}");
}

/// Puts a server before the emulator that adds IAM without two of the permissions, and a clock that
/// is an hour late.
#[tokio::test]
async fn doctor_finds_missing_permissions_and_wrong_clock() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(Some("600s")).await;
    let emulator = topic.host().to_owned();
    let (address, _tasks) = server(move |mut socket| {
        let emulator = emulator.clone();
        async move {
            let head = head(&mut socket).await;
            let text = String::from_utf8_lossy(&head);
            let answer = if text.contains(":testIamPermissions") {
                let granted = r#"{"permissions":["pubsub.topics.get","pubsub.topics.attachSubscription",
                    "pubsub.subscriptions.consume"]}"#;
                let length = granted.len();
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{granted}")
            } else if text.starts_with("GET / ") {
                let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3_600));
                format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            } else {
                let mut upstream = TcpStream::connect(&emulator).await.unwrap();
                upstream.write_all(&head).await.unwrap();
                copy_bidirectional(&mut socket, &mut upstream).await.ok();
                return;
            };
            socket.write_all(answer.as_bytes()).await.ok();
        }
    })
    .await;
    let report = Report::of(doctor(&[]).topic(&topic.seen_at(&address))).await;
    assert_eq!(report.code, Some(1));
    let line = report.line("permissions");
    assert!(line.contains("missing: pubsub.topics.publish, pubsub.subscriptions.delete."), "{line}");
    assert!(line.contains("roles/pubsubRelayTopic") && line.contains("roles/pubsubRelayFeeds"), "{line}");
    let line = report.line("clock");
    assert!(line.contains("1h") && line.contains("ahead of Pub/Sub's") && line.contains("NTP"), "{line}");
    assert!(report.line("trial feed").starts_with("ok "), "{}", report.text);
}

/// Runs the doctor on a fake of the service.
async fn report_on(service: &Service) -> Report {
    report_of(service, |setup| setup).await
}

/// Runs the doctor with these further settings on a fake of the service.
async fn report_of(service: &Service, settings: impl FnOnce(Setup) -> Setup) -> Report {
    let setup = service.at(doctor(&["--grace", "60s"])).set("RELAY_ORPHAN_AFTER", "3s");
    Report::of(settings(setup)).await
}

fn with_secret(setup: Setup) -> Setup {
    setup.set("RELAY_CONTROL_SECRET", "a-secret-of-at-least-thirty-two-bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_with_service() {
    let service = Service::start().await;
    let pods = join_all(["a", "b"].map(|name| with_secret(service.pod(name)).start())).await;
    sleep(Duration::from_secs(3)).await;
    for signed in [true, false] {
        let report = report_of(&service, |setup| if signed { with_secret(setup) } else { setup }).await;
        assert_eq!(report.code, Some(0), "{}", report.text);
        assert!(report.line("orphans").ends_with("none among 2 feeds"), "{}", report.text);
        let unproven = pods[0].metric("relay_control_unproven_total").await;
        assert_eq!(unproven == 0.0, signed, "{unproven} heartbeats of the doctor are not believed");
    }
    let membership = pods[0].http.get("/readyz").await.json()["membership"].clone();
    assert_eq!(membership["pods"], 2, "the doctor is no member");
    assert_eq!(service.state().feeds.len(), 2, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_refused_publish() {
    let service = Service::start().await;
    let text =
        "Cannot publish messages that contain ordering keys to this topic due to a message storage policy";
    service.state().faults.insert("publish", Fault::precondition(text));
    let report = report_on(&service).await;
    let line = report.only_wrong("publish");
    assert!(line.contains("storage policy") && line.contains("RELAY_PUBSUB_ENDPOINT"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_calls_no_feed_orphan_unheard() {
    let service = Service::start().await;
    let _pods = join_all(["a", "b"].map(|name| service.pod(name).start())).await;
    sleep(Duration::from_secs(3)).await;
    service.state().faults.insert("stream", Fault::exhausted().only(".doctor."));
    let report = report_on(&service).await;
    let line = report.only_wrong("receive");
    assert!(line.contains("Quota exceeded") && line.contains("raise the quota"), "{line}");
    assert!(report.line("orphans").starts_with("skipped "), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_measures_clock_by_own_heartbeat() {
    for (clock, how) in [(-3_700, "ahead of"), (3_700, "behind")] {
        let service = Service::start().await;
        service.state().clock = clock;
        let _pods = join_all(["a", "b"].map(|name| service.pod(name).start())).await;
        sleep(Duration::from_secs(3)).await;
        let report = report_on(&service).await;
        let line = report.only_wrong("clock");
        assert!(line.contains("1h") && line.contains(how), "{line}");
        assert!(report.line("orphans").ends_with("none among 2 feeds"), "{}", report.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_cause_of_missing_credentials() {
    let service = Service::start().await;
    service.state().metadata = Metadata::Status(404);
    let report = report_on(&service).await;
    let line = report.line("topic");
    assert!(line.contains("metadata server answers with HTTP status 404"), "{line}");
    assert!(line.contains("Cure: give the pod an identity"), "{line}");
}

fn refuse(state: &mut State, method: &'static str, fault: Fault) {
    state.faults.insert(method, fault);
}

const TO_TOPIC: &str = "roles/pubsubRelayTopic";
const TO_FEEDS: &str = "roles/pubsubRelayFeeds";

/// Plants a fault in the fake.
type Plant = fn(&mut State);

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_each_fault_of_service() {
    // The fault, the check that finds it, its words, and its cure.
    let faults: [(Plant, &str, &str, &str); 16] = [
        (
            |it| refuse(it, "get", Fault::missing()),
            "topic",
            "there is no ",
            "gcloud pubsub topics create events",
        ),
        (|it| refuse(it, "get", Fault::denied()), "topic", "permission denied to ", TO_TOPIC),
        (|it| it.metadata = Metadata::Status(503), "topic", "HTTP status 503", "metadata server"),
        (|it| it.metadata = Metadata::Hangs, "topic", "metadata server does not answer", "identity"),
        (|it| it.retention = Some("0s"), "retention", "retains nothing", "--message-retention-duration=600s"),
        (
            |it| it.withheld = Some("pubsub.topics.publish"),
            "permissions",
            "missing: pubsub.topics.publish",
            TO_TOPIC,
        ),
        (
            |it| refuse(it, "create", Fault::denied()),
            "trial feed",
            "permission denied to create a feed",
            TO_FEEDS,
        ),
        (|it| refuse(it, "create", Fault::exhausted()), "trial feed", "Quota exceeded", "raise the quota"),
        (
            |it| refuse(it, "seek", Fault::denied()),
            "trial feed",
            "permission denied to seek a feed",
            TO_FEEDS,
        ),
        (|it| refuse(it, "delete", Fault::denied()), "trial feed", "permission denied to delete", TO_FEEDS),
        (|it| refuse(it, "list", Fault::denied()), "quota", "permission denied to list", TO_FEEDS),
        (|it| refuse(it, "publish", Fault::denied()), "publish", "permission denied to publish", "grant"),
        (|it| refuse(it, "publish", Fault::exhausted()), "publish", "Quota exceeded", "raise the quota"),
        (|it| refuse(it, "stream", Fault::denied()), "receive", "permission denied to receive", "grant"),
        (|it| it.deaf = Some(".doctor."), "receive", "did not come through the trial feed", "allow traffic"),
        (
            |it| {
                let feed = "projects/p-1/subscriptions/events.dead.18c00000000-0123abcd".to_owned();
                it.feeds.insert(feed, Default::default());
            },
            "orphans",
            "1 left by pods",
            "gcloud pubsub subscriptions delete events.dead.18c00000000-0123abcd",
        ),
    ];
    join_all(faults.map(async |(plant, check, what, cure)| {
        let service = Service::start().await;
        plant(&mut service.state());
        let report = report_on(&service).await;
        let (found, cured) = report.line(check).split_once(" Cure: ").unwrap_or_default();
        assert!(found.starts_with("WRONG") && found.contains(what), "{what}: {}", report.text);
        assert!(cured.contains(cure), "{what}: {}", report.text);
        assert_eq!(report.code, Some(1), "{}", report.text);
        assert!(!report.text.contains("Some(") && !report.text.contains("Error {"), "{}", report.text);
    }))
    .await;
}
