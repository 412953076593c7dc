//! Tests of revocations between pods: what is believed, what is shared, and when a pod is ready.

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::time::advance;

use super::*;
use crate::{
    control::Secrets,
    membership::{self, Membership},
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
