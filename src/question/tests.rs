//! Questions between pods on the memory broker; time is paused.

use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tokio::task::JoinSet;

use super::*;
use crate::{
    broker::{Feed as _, Received, memory::Topic},
    control::Secrets,
    hub::Answer,
    membership::{Heartbeat, Settings},
};

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

/// Pods of a test, each with a task that hears and one that answers.
struct Pods {
    topic: Topic,
    tasks: JoinSet<()>,
    /// Inboxes of the pods that do not answer.
    inboxes: Vec<Inbox>,
}

impl Pods {
    fn new() -> Self {
        let topic = Topic::new(Duration::from_secs(600), 1 << 20);
        Self { topic, tasks: JoinSet::new(), inboxes: Vec::new() }
    }

    fn start(&mut self, name: &str, secret: Option<&str>, answers: bool) -> Questions {
        self.start_with(Arc::new(self.topic.clone()), name, secret, answers)
    }

    fn start_with(
        &mut self,
        publisher: Arc<dyn Publish>,
        name: &str,
        secret: Option<&str>,
        answers: bool,
    ) -> Questions {
        let meter = NoopMeterProvider::new().meter("test");
        let settings = Settings {
            pod: name.into(),
            interval: Duration::from_secs(10),
            settle: Duration::from_millis(200),
            orphan_after: Duration::from_secs(180),
            secrets: secret.map(|secret| Secrets::parse(secret).unwrap()),
        };
        let membership = Membership::new(settings, &meter);
        let (questions, inbox) = Questions::new(membership.clone(), publisher, &meter);
        let (mut feed, heard) = (self.topic.open_feed(), questions.clone());
        self.tasks.spawn(async move {
            while let Some(Received { event: Ok(event), .. }) = feed.next().await {
                membership.hear(&event);
                heard.hear(&event);
            }
        });
        let (pod, answering): (Arc<str>, _) = (name.into(), questions.clone());
        if answers {
            self.tasks.spawn(async move {
                let answer = |_: &Question| PodAnswer {
                    pod: pod.clone(),
                    answer: Answer::NotConnected,
                    received: None,
                    stays: Vec::new(),
                    gap: None,
                };
                answering.run(inbox, answer).await;
            });
        } else {
            self.inboxes.push(inbox);
        }
        questions
    }

    /// Makes the pods of these names members.
    async fn beat(&self, names: &[&str]) {
        for name in names {
            let feed = format!("events.{name}.1").into();
            let ten = Duration::from_secs(10);
            let mut event = Heartbeat::new((*name).into(), feed, 0, ten).event();
            Secrets::parse(SECRET).unwrap().sign(&mut event, std::time::SystemTime::now());
            self.topic.publish(&event).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_pods_answer_and_silent_one_is_named() {
    let mut pods = Pods::new();
    let asked = pods.start("a", Some(SECRET), true);
    pods.start("b", Some(SECRET), true);
    pods.start("c", Some(SECRET), false);
    pods.beat(&["a", "b"]).await;
    let began = Instant::now();
    let gathered = asked.ask("event", "user").await.unwrap();
    assert_eq!(gathered.answers.iter().map(|answer| &*answer.pod).collect::<Vec<_>>(), ["b"]);
    assert!(gathered.silent.is_empty() && began.elapsed() < PATIENCE, "it waits for no one else");

    pods.beat(&["c"]).await;
    let gathered = asked.ask("event", "user").await.unwrap();
    assert_eq!((gathered.answers.len(), gathered.silent), (1, vec!["c".into()]));
    assert!(lock(&asked.0.open).is_empty());
}

/// Publisher whose acknowledgements never come.
struct Unacknowledged(Topic);

#[async_trait::async_trait]
impl Publish for Unacknowledged {
    async fn publish(&self, event: &Event) -> Result<(), crate::broker::PublishError> {
        self.0.publish(event).await?;
        std::future::pending().await
    }

    async fn flush(&self) {}
}

#[tokio::test(start_paused = true)]
async fn answers_count_before_the_acknowledgement() {
    let mut pods = Pods::new();
    let asked = pods.start_with(Arc::new(Unacknowledged(pods.topic.clone())), "a", Some(SECRET), true);
    pods.start("b", Some(SECRET), true);
    pods.beat(&["a", "b"]).await;
    let began = Instant::now();
    let gathered = asked.ask("event", "user").await.unwrap();
    assert!(gathered.answers.len() == 1 && began.elapsed() < PATIENCE, "{gathered:?} {:?}", began.elapsed());
    pods.beat(&["c"]).await;
    let gathered = asked.ask("event", "user").await.unwrap();
    assert_eq!((gathered.answers.len(), gathered.silent), (1, vec!["c".into()]));
}

#[tokio::test(start_paused = true)]
async fn unproven_question_gets_no_answer() {
    let mut pods = Pods::new();
    let other = "another-secret-of-thirty-two-bytes";
    let (asked, foreign) = (pods.start("a", Some(SECRET), true), pods.start("x", Some(other), true));
    pods.start("b", Some(SECRET), true);
    pods.beat(&["a", "b", "x"]).await;
    let gathered = asked.ask("event", "user").await.unwrap();
    assert_eq!((gathered.answers.len(), gathered.silent), (1, vec!["x".into()]));
    let gathered = foreign.ask("event", "user").await.unwrap();
    assert!(gathered.answers.is_empty(), "{gathered:?}");
    let without = pods.start("n", None, true);
    assert_eq!(without.ask("event", "user").await.unwrap_err(), NotAsked::NoSecret);
}

#[tokio::test(start_paused = true)]
async fn flood_of_questions_is_refused() {
    let mut pods = Pods::new();
    let asked = pods.start("a", Some(SECRET), true);
    let outcomes: Vec<_> = futures_util::future::join_all((0..30).map(|_| asked.ask("event", "user"))).await;
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(NotAsked::TooMany(_)))).count();
    assert_eq!(refused, 20, "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn old_or_repeated_question_gets_no_answer() {
    let mut pods = Pods::new();
    let asked = pods.start("a", Some(SECRET), false);
    let mut question = Question { pod: "b".into(), event: "e".into(), user: "u".into() }.event();
    Secrets::parse(SECRET).unwrap().sign(&mut question, std::time::SystemTime::now());
    question.published = Some(std::time::SystemTime::now());
    let waiting = || MAX_WAITING - asked.0.inbox.capacity();
    for expected in [1, 1] {
        assert!(asked.hear(&question));
        assert_eq!(waiting(), expected);
    }
    let mut old = Question { pod: "b".into(), event: "f".into(), user: "u".into() }.event();
    Secrets::parse(SECRET).unwrap().sign(&mut old, std::time::SystemTime::now());
    old.published = Some(std::time::SystemTime::now() - 3 * PATIENCE);
    assert!(asked.hear(&old));
    assert_eq!(waiting(), 1, "history is not answered");
}
