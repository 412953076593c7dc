//! [`Ledger`]: list of all published templates, and the [`Verdict`] on what clients received of
//! them.
//!
//! It is the oracle of the chaos tests, so it is independent of the relay's logic: it records the
//! author, the locations and whether the topic acknowledged. It must never look at cursors, windows
//! or feeds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    resuming::{Crowd, Ports, Record},
    support::{EVERYWHERE, Message, Relay, Service, Topic, USERS, eventually, locations},
};

/// Timeout of a mutation: longer than a pod's timeout of a publish.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Limit for the refusal of a mutation that cannot be published: the promised five seconds, and one
/// for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(6);

/// Time in which clients must receive the rest once no fault is left.
const SETTLED: Duration = Duration::from_secs(60);

const ADD: &str = "mutation Add($input: AddTemplateInput!) {
    addTemplate(templateInput: $input) { success }
}";

/// Locations that the templates are shared with, in turn.
const SHARED: [&[&str]; 7] = [&["3"], &["1"], &["4"], &["2"], &["1", "3"], &["99"], &["3", "4"]];

/// Topic that a foreign program publishes to, past all pods.
pub(crate) trait Foreign {
    /// Returns once the topic took the message.
    async fn take(&self, message: Message);
}

impl Foreign for Topic {
    async fn take(&self, message: Message) {
        self.publish([message]).await;
    }
}

impl Foreign for Service {
    async fn take(&self, message: Message) {
        self.state().take_foreign(&message);
    }
}

/// One published template.
struct Entry {
    author: Option<&'static str>,
    shared: &'static [&'static str],
    began: Instant,
    /// Whether the topic acknowledged it. If false, the topic may still have it.
    taken: bool,
    /// Error code that the pod returned instead, and the time until then.
    refusal: Option<(String, Duration)>,
}

impl Entry {
    /// Returns whether the template matches this user, by the simplest form of the rule.
    fn is_for(&self, user: &str) -> bool {
        self.author != Some(user) && self.shared.iter().any(|location| locations(user).contains(location))
    }
}

/// All published templates by number; the number is the template's name. Clones share one list.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Entry>>>);

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap()
    }

    /// Records a template that is about to be published, and returns its number.
    fn begin(&self, author: Option<&'static str>, shared: &'static [&'static str]) -> usize {
        let mut entries = self.entries();
        entries.push(Entry { author, shared, began: Instant::now(), taken: false, refusal: None });
        entries.len() - 1
    }

    pub(crate) fn began(&self, number: usize) -> Instant {
        self.entries()[number].began
    }

    /// Returns the number that the next template gets.
    pub(crate) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Publishes `count` messages, made by `write`, as a foreign program: past all pods and
    /// proxies.
    pub(crate) async fn publish(
        &self,
        topic: &impl Foreign,
        count: usize,
        shared: &'static [&'static str],
        write: impl Fn(Message) -> Message,
    ) {
        for _ in 0..count {
            let number = self.begin(None, shared);
            topic.take(write(Message::template(&number.to_string(), shared))).await;
            self.entries()[number].taken = true;
        }
    }

    /// Publishes every message of `count` twice, shuffled, by several authors.
    pub(crate) async fn publish_twice(&self, topic: &Topic, count: usize) {
        let mut messages = Vec::new();
        let mut numbers = Vec::new();
        for n in 0..count {
            // the user's id in the built-in directory
            let (author, id) = [("ZELO", "1"), ("ZEWI", "2"), ("ZOWI", "3"), ("ZOLO", "4")][n % 4];
            let number = self.begin(Some(author), SHARED[n % SHARED.len()]);
            let message =
                Message::template(&number.to_string(), SHARED[n % SHARED.len()]).with("ce-author", id);
            messages.extend([message.clone(), message]);
            numbers.push(number);
        }
        topic.publish_shuffled(messages).await;
        for number in numbers {
            self.entries()[number].taken = true;
        }
    }

    /// Adds a template by every author on every pod. It fails if an earlier fault left an author's
    /// publishing closed.
    pub(crate) async fn each_adds_on_each(&self, pods: &[Relay], ports: &Ports) {
        for author in authors(self, ports) {
            for pod in pods {
                let answer = author.add(pod.port(), SHARED[0]).await;
                assert!(answer.is_ok(), "{} on {}: {answer:?}", author.name, pod.name());
            }
        }
    }

    /// Asserts that each refusal had the right error and came in time. Returns the number of
    /// refusals.
    pub(crate) fn assert_refused_in_time(&self) -> usize {
        let refusals: Vec<_> = self.entries().iter().filter_map(|entry| entry.refusal.clone()).collect();
        let is_right =
            |(code, after): &(String, Duration)| code == "PUBLISH_FAILED" && *after < REFUSED_WITHIN;
        assert!(refusals.iter().all(is_right), "{refusals:?}");
        refusals.len()
    }

    /// Waits until these clients have all their events and proves that they have no others. For the
    /// proof it publishes a last template that matches every client and arrives after all earlier
    /// ones.
    pub(crate) async fn settle(&self, topic: &impl Foreign, crowds: &[&Crowd]) -> Verdict {
        self.publish(topic, 1, &EVERYWHERE, |message| message).await;
        let deadline = Instant::now() + SETTLED;
        loop {
            let verdict = self.judge(crowds);
            if verdict.missing.is_empty() || Instant::now() > deadline {
                return verdict;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until each of these clients has received a template published from now on: then the
    /// fault is over for each.
    pub(crate) async fn revive(&self, topic: &impl Foreign, crowds: &[&Crowd]) {
        let first = self.len();
        eventually("every client receives events again", SETTLED, async || {
            self.publish(topic, 1, &EVERYWHERE, |message| message).await;
            sleep(Duration::from_millis(300)).await;
            let all = crowds.iter().flat_map(|crowd| crowd.records());
            let mut has_received =
                all.map(|record| record.received.last().is_some_and(|received| received.number >= first));
            has_received.all(|has_received| has_received).then_some(())
        })
        .await;
    }

    fn judge(&self, crowds: &[&Crowd]) -> Verdict {
        let entries = self.entries();
        let mut verdict =
            Verdict { taken: entries.iter().filter(|entry| entry.taken).count(), ..Verdict::default() };
        let mut ids = HashMap::new();
        for record in crowds.iter().flat_map(|crowd| crowd.records()) {
            verdict.client(&entries, &record, &mut ids);
        }
        verdict
    }
}

/// Findings, each with its client and template, and figures without judgement.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Templates that the topic acknowledged and that match the client, but never arrived.
    pub(crate) missing: Vec<String>,
    /// Templates that arrived but do not match the client or were never published.
    pub(crate) foreign: Vec<String>,
    /// Templates that arrived twice on one connection, or under two event ids.
    pub(crate) duplicates: Vec<String>,
    /// Templates that arrived before an earlier one of the same author, on one connection.
    pub(crate) disorder: Vec<String>,
    /// Messages that no client should receive.
    pub(crate) wrong: Vec<String>,
    /// Number of gap notices of each client.
    pub(crate) gaps: Vec<usize>,
    /// Number of connections that ended, over all clients.
    pub(crate) returns: usize,
    /// Number of received templates, including repeats.
    pub(crate) received: usize,
    /// Number of repeats among them.
    pub(crate) repeats: usize,
    /// Number of templates that the topic acknowledged.
    pub(crate) taken: usize,
}

impl Verdict {
    fn client(&mut self, entries: &[Entry], record: &Record, ids: &mut HashMap<usize, String>) {
        let client = format!("{} {}", record.user, self.gaps.len());
        let mut had = BTreeSet::new();
        let mut on_connection = BTreeSet::new();
        let mut latest = BTreeMap::new();
        for received in &record.received {
            let what = format!("{client}: {received:?}");
            let Some(entry) = entries.get(received.number).filter(|entry| entry.is_for(record.user)) else {
                self.foreign.push(what);
                continue;
            };
            let is_known =
                ids.entry(received.number).or_insert_with(|| received.event.clone()) == &received.event;
            if !on_connection.insert((received.connection, received.number)) || !is_known {
                self.duplicates.push(what.clone());
            }
            if latest.insert((received.connection, entry.author), received.number) > Some(received.number) {
                self.disorder.push(what);
            }
            self.repeats += usize::from(!had.insert(received.number));
        }
        let missing = (0..)
            .zip(entries)
            .filter(|(n, entry)| entry.taken && entry.is_for(record.user) && !had.contains(n));
        self.missing.extend(missing.map(|(n, _)| format!("{client}: {n}")));
        self.wrong.extend(record.wrong.iter().map(|wrong| format!("{client}: {wrong}")));
        self.gaps.push(record.gaps);
        self.returns += record.ends.len();
        self.received += record.received.len();
    }

    /// Asserts that every client received exactly its templates, each once per connection, without
    /// a gap notice.
    pub(crate) fn assert_flawless(&self) {
        self.assert_truthful();
        assert!(self.missing.is_empty(), "missing: {}", some(&self.missing));
        assert!(self.gaps.iter().all(|gaps| *gaps == 0), "gap notices: {:?}", self.gaps);
    }

    /// Asserts that no client received a template that does not match it, or one twice; templates
    /// may be missing.
    pub(crate) fn assert_truthful(&self) {
        assert!(self.wrong.is_empty(), "wrong: {}", some(&self.wrong));
        assert!(self.foreign.is_empty(), "foreign: {}", some(&self.foreign));
        assert!(self.duplicates.is_empty(), "duplicates: {}", some(&self.duplicates));
        assert!(self.received > 0 && self.taken > 0, "nothing happened: {self:?}");
    }

    /// Asserts that on each connection the templates of one author arrived in the order of writing.
    pub(crate) fn assert_ordered(&self) {
        assert!(self.disorder.is_empty(), "out of order: {}", some(&self.disorder));
    }

    /// Returns the figures as one line of text.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} clients, {} events, {} heard, {} returns, {} repeats, {} gap notices",
            self.gaps.len(),
            self.taken,
            self.received,
            self.returns,
            self.repeats,
            self.gaps.iter().sum::<usize>()
        )
    }
}

/// Returns the number of findings and the first five.
fn some(all: &[String]) -> String {
    let mut text = all.len().to_string();
    for one in all.iter().take(5) {
        write!(text, "\n  {one}").unwrap();
    }
    text
}

/// Users that add templates on any pod at a steady total rate. Each waits for its answer before the
/// next template.
pub(crate) struct Traffic {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Traffic {
    pub(crate) fn start(ledger: &Ledger, ports: &Ports, per_second: u32) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for author in authors(ledger, ports) {
            tasks.spawn(author.run(Duration::from_secs(4) / per_second, stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Stops all authors after their current mutation.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn authors(ledger: &Ledger, ports: &Ports) -> impl Iterator<Item = Author> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().unwrap();
    USERS.into_iter().map(move |name| Author {
        name,
        ledger: ledger.clone(),
        ports: ports.clone(),
        client: client.clone(),
    })
}

struct Author {
    name: &'static str,
    ledger: Ledger,
    ports: Ports,
    client: reqwest::Client,
}

impl Author {
    async fn run(self, every: Duration, stop: CancellationToken) {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut turn = locations(self.name)[0].len() + self.name.len();
        while !stop.is_cancelled() {
            pace.tick().await;
            turn += 1;
            let Some(port) = self.ports.any() else { continue };
            // the ledger has the outcome
            self.add(port, SHARED[turn % SHARED.len()]).await.ok();
        }
    }

    /// Adds a template and records the outcome. Returns an error if the topic did not acknowledge
    /// it.
    async fn add(&self, port: u16, shared: &'static [&'static str]) -> Result<(), Option<String>> {
        let number = self.ledger.begin(Some(self.name), shared);
        let answer = self.ask(port, number, shared).await.ok_or(None)?;
        let mut entries = self.ledger.entries();
        let entry = &mut entries[number];
        if answer["data"]["addTemplate"]["success"] == true {
            entry.taken = true;
            return Ok(());
        }
        let code = answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned();
        entry.refusal = Some((code.clone(), entry.began.elapsed()));
        Err(Some(code))
    }

    /// Sends the mutation. Returns `None` if the pod is gone before it answers.
    async fn ask(&self, port: u16, number: usize, shared: &[&str]) -> Option<Value> {
        let input = json!({ "name": number.to_string(), "shareLocationIds": shared });
        let body = json!({ "query": ADD, "variables": { "input": input } });
        let request = self.client.post(format!("http://127.0.0.1:{port}/graphql"));
        let request = request.header("content-type", "application/json");
        let request = request
            .header("authorization", format!("Bearer {}", self.ports.token(self.name)))
            .body(body.to_string());
        serde_json::from_str(&request.send().await.ok()?.text().await.ok()?).ok()
    }
}
