//! Tests of revocations between pods: what is believed, what is shared, and when a pod is ready.

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::{
    select,
    time::{advance, timeout},
};

use super::*;
use crate::{
    control::Secrets,
    membership::{self, Heartbeat, Membership},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Topic that keeps what is published.
#[derive(Default)]
struct Published(Mutex<Vec<Event>>);

#[async_trait]
impl Publish for Published {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let event = Event { published: Some(SystemTime::now()), ..event.clone() };
        self.0.lock().unwrap().push(event);
        Ok(())
    }

    async fn flush(&self) {}
}

impl Published {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn pod(name: &str, secrets: Option<&Secrets>) -> (Revocations, Arc<Published>) {
    let meter = opentelemetry::global::meter("test");
    let settings = membership::Settings {
        pod: name.into(),
        interval: Duration::from_secs(10),
        settle: Duration::ZERO,
        orphan_after: Duration::from_secs(180),
        secrets: secrets.cloned(),
    };
    let topic = Arc::new(Published::default());
    let membership = Membership::new(settings, &meter);
    (Revocations::new(membership, topic.clone(), DAY, &meter), topic)
}

fn user(name: &str) -> Subject {
    Subject::User(name.into())
}

fn refusal(pod: &Revocations, user: &str, issued: Issued) -> Option<Refused> {
    pod.refusal(&Credentials { user: user.into(), id: None, issued })
}

/// Makes the pod ready, as one that has waited for the others.
async fn start(pod: &Revocations) {
    pod.caught_up();
    advance(FIRST_PIECE).await;
    assert_eq!(pod.lack(), None);
}

/// Lets the pod hear that this one has opened a feed.
fn join(pod: &Revocations, secrets: &Secrets, name: &str) {
    let heartbeat = Heartbeat::new(name.into(), format!("{name}.1").into(), 0, Duration::from_secs(10));
    let (mut event, now) = (heartbeat.event(), pod.now());
    secrets.sign(&mut event, now);
    event.published = Some(now);
    pod.0.membership.hear(&event);
}

/// Publishes a record with this moment as the pod does it.
async fn publish(pod: &Revocations, user: &str, before: SystemTime) {
    let record = Record { subject: self::user(user), before: millis(before), retry: false };
    pod.publish(Piece { records: vec![record], whole: None }).await.unwrap();
}

/// Returns the users of the records in these events.
fn users(events: &[Event]) -> Vec<String> {
    let pieces = events.iter().map(|event| serde_json::from_slice::<Piece>(&event.data).unwrap());
    let records = pieces.flat_map(|piece| piece.records);
    let mut users: Vec<_> = records.map(|record| record.subject.name().unwrap().to_string()).collect();
    users.sort();
    users
}

#[tokio::test(start_paused = true)]
async fn record_of_later_moment_is_ignored() {
    let secrets = Secrets::random();
    let ((a, topic), (b, _)) = (pod("a", Some(&secrets)), pod("b", Some(&secrets)));
    publish(&a, "ann", a.now() + MAX_AHEAD - Duration::from_secs(5)).await;
    publish(&a, "bob", a.now() + MAX_AHEAD + Duration::from_secs(5)).await;
    publish(&a, "eve", a.now() + DAY * 365).await;
    topic.take().iter().for_each(|event| assert!(b.hear(event)));
    assert_eq!(refusal(&b, "ann", Issued::Unknown), Some(Refused::Revoked), "clocks differ a little");
    for user in ["bob", "eve"] {
        assert_eq!(refusal(&b, user, Issued::Unknown), None, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn expired_record_is_neither_kept_nor_repeated() {
    let secrets = Secrets::random();
    let (a, topic) = pod("a", Some(&secrets));
    start(&a).await;
    a.revoke(user("ann"), false).await.unwrap();
    let old = topic.take().remove(0);
    advance(DAY / 2).await;
    a.revoke(user("bob"), false).await.unwrap();
    advance(DAY / 2 + Duration::from_secs(1)).await;
    topic.take();
    timeout(PERIOD * 2, a.run()).await.unwrap_err();
    let published = topic.take();
    assert!(!published.is_empty() && users(&published).iter().all(|user| user == "bob"), "{published:?}");
    assert!(a.hear(&old), "a replay of the topic");
    assert_eq!(refusal(&a, "ann", Issued::Unknown), None);
    assert_eq!(refusal(&a, "bob", Issued::Unknown), Some(Refused::Revoked));
}

#[tokio::test(start_paused = true)]
async fn one_of_all_pods_repeats_the_set() {
    let secrets = Secrets::random();
    let (a, topic) = pod("a", Some(&secrets));
    start(&a).await;
    a.revoke(user("ann"), false).await.unwrap();
    topic.take();
    for pods in [1, 4] {
        (0..pods).for_each(|n| join(&a, &secrets, &format!("pod-{n}")));
        timeout(PERIOD * 1_000, a.run()).await.unwrap_err();
        let repeats = topic.take().len();
        // Six standard deviations of the fourth part, and nearly all of one pod.
        let expected = if pods == 1 { 950..=1_050 } else { 168..=332 };
        assert!(expected.contains(&repeats), "{repeats} repeats by one of {pods}");
    }
}

#[tokio::test(start_paused = true)]
async fn pod_that_joins_is_given_the_set_once() {
    let secrets = Secrets::random();
    let [(a, topic), (other, of_other), (lacking, of_lacking)] =
        ["a", "other", "lacking"].map(|name| pod(name, Some(&secrets)));
    for pod in [&a, &other, &lacking] {
        start(pod).await;
    }
    a.revoke(user("ann"), false).await.unwrap();
    topic.take().iter().for_each(|event| assert!(other.hear(event)));
    other.publish_all().await;
    let same = of_other.take();
    lacking.revoke(user("bob"), false).await.unwrap();
    of_lacking.take();
    lacking.publish_all().await;
    let different = of_lacking.take();
    let welcomed = async |name: &str, heard: &[Event]| {
        join(&a, &secrets, name);
        sleep(Duration::ZERO).await;
        heard.iter().for_each(|event| assert!(a.hear(event)));
        sleep(WELCOME + Duration::from_millis(10)).await;
        users(&topic.take())
    };
    let joins = async {
        sleep(Duration::from_millis(10)).await;
        assert_eq!(welcomed("b", &[]).await, ["ann"]);
        assert!(welcomed("b", &[]).await.is_empty(), "it is known");
        assert!(welcomed("c", &same).await.is_empty(), "another pod was first");
        assert_eq!(welcomed("d", &different).await, ["ann", "bob"], "with another set");
    };
    select! {
        () = a.run() => {}
        () = joins => {}
    }
}

#[tokio::test(start_paused = true)]
async fn record_reaches_other_pods() {
    let secrets = Secrets::random();
    let ((a, topic), (b, _)) = (pod("a", Some(&secrets)), pod("b", Some(&secrets)));
    let mut changes = b.changes();
    let record = a.revoke(user("ann"), false).await.unwrap();
    assert_eq!(refusal(&a, "ann", Issued::At(record.before)), Some(Refused::Revoked));
    assert_eq!(refusal(&b, "ann", Issued::At(record.before)), None, "not yet");
    for event in topic.take() {
        assert!(b.hear(&event));
    }
    assert_eq!(refusal(&b, "ann", Issued::At(record.before)), Some(Refused::Revoked));
    assert_eq!(refusal(&b, "ann", Issued::At(record.before + 1)), None);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let other = Event::new("/pods/a".into(), "template.added.v1", None, "{}".into());
    assert!(!b.hear(&other), "an event of a domain");
}

#[tokio::test(start_paused = true)]
async fn forged_and_replayed_records_change_nothing() {
    let (secrets, others) = (Secrets::random(), Secrets::random());
    let ((a, topic), (b, _)) = (pod("a", Some(&secrets)), pod("b", Some(&secrets)));
    a.revoke(user("ann"), false).await.unwrap();
    let good = topic.take().remove(0);
    let (forger, of_forger) = pod("forger", Some(&others));
    forger.revoke(user("ann"), false).await.unwrap();
    let forged = of_forger.take().remove(0);
    let data = String::from_utf8(good.data.to_vec()).unwrap();
    let changed = Event { data: data.replace("ann", "bob").into_bytes().into(), ..good.clone() };
    let unsigned = Event {
        data: data.split(",\"sent\"").next().map(|data| format!("{data}}}")).unwrap().into(),
        ..good.clone()
    };
    let late = Event { published: good.published.map(|at| at + Duration::from_secs(61)), ..good.clone() };
    for bad in [forged, changed, unsigned, late] {
        assert!(b.hear(&bad));
        assert_eq!(refusal(&b, "ann", Issued::Unknown), None);
        assert_eq!(refusal(&b, "bob", Issued::Unknown), None);
    }
    b.hear(&good);
    let changes = b.changes();
    b.hear(&good);
    assert!(!changes.has_changed().unwrap(), "a repeat changes nothing");
}

#[tokio::test(start_paused = true)]
async fn pod_waits_for_set_of_others() {
    let secrets = Secrets::random();
    let ((a, topic), (b, _)) = (pod("a", Some(&secrets)), pod("b", Some(&secrets)));
    start(&a).await;
    let long = "\"".repeat(250);
    for n in 0..150 {
        a.revoke(user(&format!("{long}{n}")), false).await.unwrap();
    }
    topic.take();
    a.publish_all().await;
    let pieces = topic.take();
    assert!(pieces.len() > 1, "{}", pieces.len());
    b.caught_up();
    for piece in &pieces[1..] {
        b.hear(piece);
        b.hear(piece);
    }
    advance(FIRST_PIECE).await;
    assert!(b.lack().is_some(), "a piece is missing");
    b.hear(&pieces[0]);
    assert_eq!(b.lack(), None);
    assert_eq!(refusal(&b, &format!("{long}149"), Issued::Unknown), Some(Refused::Revoked));
}

#[tokio::test(start_paused = true)]
async fn pod_that_starts_publishes_no_set() {
    let secrets = Secrets::random();
    let (pod, topic) = pod("a", Some(&secrets));
    pod.publish_all().await;
    assert!(topic.take().is_empty(), "its set may not be whole");
    pod.caught_up();
    assert!(pod.lack().is_some());
    start(&pod).await;
    pod.publish_all().await;
    assert_eq!(topic.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn revocation_needs_secret_and_sound_name() {
    let (pod_without, topic) = pod("a", None);
    assert!(matches!(pod_without.revoke(user("ann"), false).await, Err(NotRevoked::Off)));
    assert!(topic.take().is_empty());
    assert_eq!(pod_without.lack(), None);
    let (pod, _) = pod("a", Some(&Secrets::random()));
    assert!(matches!(pod.revoke(user(""), false).await, Err(NotRevoked::BadName)));
}
