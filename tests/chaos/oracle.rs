//! [`Ledger`]: what was published, as the publisher knows it, and the verdict on what clients heard of it.
//!
//! It knows nothing of cursors, windows and feeds: only who wrote what for whom, and whether the topic took it.

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
use uuid::Uuid;

use crate::{
    resuming::{Crowd, Ports, Record},
    support::{EVERYWHERE, Message, Relay, Topic, USERS, eventually, locations},
};

/// Longer than a pod gives a publish.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What a mutation may take that cannot be published: the five seconds of the promise, and one for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(6);

/// How long clients may take to hear the rest, when nothing is wrong any more.
const SETTLED: Duration = Duration::from_secs(60);

const ADD: &str = "mutation Add($input: AddTemplateInput!) {
    addTemplate(templateInput: $input) { success }
}";

/// With whom the templates are shared, in turn.
const SHARED: [&[&str]; 7] = [&["3"], &["1"], &["4"], &["2"], &["1", "3"], &["99"], &["3", "4"]];

/// One template that was published.
struct Entry {
    author: Option<&'static str>,
    shared: &'static [&'static str],
    began: Instant,
    /// The topic has acknowledged it. If not, it may or may not have it.
    taken: bool,
    /// What the pod said instead, and how long after.
    refusal: Option<(String, Duration)>,
}

impl Entry {
    /// The rule, as naively as it can be written.
    fn is_for(&self, user: &str) -> bool {
        self.author != Some(user) && self.shared.iter().any(|location| locations(user).contains(location))
    }
}

/// All that was published, by number: the number is the template's name. Clones are the same ledger.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Entry>>>);

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap()
    }

    /// Notes what is about to be published, and returns its number.
    fn begin(&self, author: Option<&'static str>, shared: &'static [&'static str]) -> usize {
        let mut entries = self.entries();
        entries.push(Entry { author, shared, began: Instant::now(), taken: false, refusal: None });
        entries.len() - 1
    }

    pub(crate) fn began(&self, number: usize) -> Instant {
        self.entries()[number].began
    }

    /// The numbers from this one on.
    pub(crate) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Publishes as a foreign program, past all pods and proxies, messages made by `write`.
    pub(crate) async fn publish(
        &self,
        topic: &Topic,
        count: usize,
        shared: &'static [&'static str],
        write: impl Fn(Message) -> Message,
    ) {
        for _ in 0..count {
            let number = self.begin(None, shared);
            topic.publish([write(Message::template(&number.to_string(), shared))]).await;
            self.entries()[number].taken = true;
        }
    }

    /// Publishes every message of `count` twice, shuffled, by several authors.
    pub(crate) async fn publish_twice(&self, topic: &Topic, count: usize) {
        let mut messages = Vec::new();
        let mut numbers = Vec::new();
        for n in 0..count {
            // the id of the user in the built-in directory
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

    /// Every author adds a template on every pod: none has a lane that stays closed after what went wrong before.
    pub(crate) async fn each_adds_on_each(&self, pods: &[Relay]) {
        for author in authors(self, &Ports::default()) {
            for pod in pods {
                let answer = author.add(pod.port(), SHARED[0]).await;
                assert!(answer.is_ok(), "{} on {}: {answer:?}", author.name, pod.name());
            }
        }
    }

    /// Whoever was refused was told why, in time. Returns how many.
    pub(crate) fn assert_refused_in_time(&self) -> usize {
        let refusals: Vec<_> = self.entries().iter().filter_map(|entry| entry.refusal.clone()).collect();
        let is_right =
            |(code, after): &(String, Duration)| code == "PUBLISH_FAILED" && *after < REFUSED_WITHIN;
        assert!(refusals.iter().all(is_right), "{refusals:?}");
        refusals.len()
    }

    /// Waits until these clients have all that they should have and then proves that they have nothing else: a last
    /// template for everybody comes after all that is on its way.
    pub(crate) async fn settle(&self, topic: &Topic, crowds: &[&Crowd]) -> Verdict {
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

    /// Waits until these clients have heard something published from now on: whatever was wrong is over for each.
    pub(crate) async fn revive(&self, topic: &Topic, crowds: &[&Crowd]) {
        let first = self.len();
        eventually("every client hears the topic again", SETTLED, async || {
            self.publish(topic, 1, &EVERYWHERE, |message| message).await;
            sleep(Duration::from_millis(300)).await;
            let all = crowds.iter().flat_map(|crowd| crowd.records());
            let mut hears = all.map(|record| record.heard.last().is_some_and(|heard| heard.number >= first));
            hears.all(|hears| hears).then_some(())
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

/// What is wrong, each with the client and the template it is about; and what is only to be known.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Acknowledged by the topic, for this client, never heard.
    pub(crate) missing: Vec<String>,
    /// Heard, and not for this client or not published at all.
    pub(crate) foreign: Vec<String>,
    /// Heard twice on one connection, or under two ids.
    pub(crate) duplicates: Vec<String>,
    /// Heard before what the same author wrote earlier, on one connection.
    pub(crate) disorder: Vec<String>,
    /// What no client should be told.
    pub(crate) wrong: Vec<String>,
    /// How many gap notices each client got.
    pub(crate) gaps: Vec<usize>,
    /// How often all of them came back.
    pub(crate) returns: usize,
    /// What was heard, repeats included, and how much of it was a repeat.
    pub(crate) heard: usize,
    pub(crate) repeats: usize,
    pub(crate) taken: usize,
}

impl Verdict {
    fn client(&mut self, entries: &[Entry], record: &Record, ids: &mut HashMap<usize, Uuid>) {
        let client = format!("{} {}", record.user, self.gaps.len());
        let mut had = BTreeSet::new();
        let mut on_connection = BTreeSet::new();
        let mut latest = BTreeMap::new();
        for heard in &record.heard {
            let what = format!("{client}: {heard:?}");
            let Some(entry) = entries.get(heard.number).filter(|entry| entry.is_for(record.user)) else {
                self.foreign.push(what);
                continue;
            };
            let is_known = *ids.entry(heard.number).or_insert(heard.event) == heard.event;
            if !on_connection.insert((heard.connection, heard.number)) || !is_known {
                self.duplicates.push(what.clone());
            }
            if latest.insert((heard.connection, entry.author), heard.number) > Some(heard.number) {
                self.disorder.push(what);
            }
            self.repeats += usize::from(!had.insert(heard.number));
        }
        let missing = (0..)
            .zip(entries)
            .filter(|(n, entry)| entry.taken && entry.is_for(record.user) && !had.contains(n));
        self.missing.extend(missing.map(|(n, _)| format!("{client}: {n}")));
        self.wrong.extend(record.wrong.iter().map(|wrong| format!("{client}: {wrong}")));
        self.gaps.push(record.gaps);
        self.returns += record.ends.len();
        self.heard += record.heard.len();
    }

    /// Every client heard all that it should, once a connection, in order, and nothing else; none was told of a gap.
    pub(crate) fn assert_flawless(&self) {
        self.assert_truthful();
        assert!(self.missing.is_empty(), "missing: {}", some(&self.missing));
        assert!(self.gaps.iter().all(|gaps| *gaps == 0), "gap notices: {:?}", self.gaps);
    }

    /// Whatever is missing, nobody was told what was not for it, and nothing twice.
    pub(crate) fn assert_truthful(&self) {
        assert!(self.wrong.is_empty(), "wrong: {}", some(&self.wrong));
        assert!(self.foreign.is_empty(), "foreign: {}", some(&self.foreign));
        assert!(self.duplicates.is_empty(), "duplicates: {}", some(&self.duplicates));
        assert!(self.heard > 0 && self.taken > 0, "nothing happened: {self:?}");
    }

    /// On each connection what one author wrote came in the order of writing.
    pub(crate) fn assert_ordered(&self) {
        assert!(self.disorder.is_empty(), "out of order: {}", some(&self.disorder));
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} clients, {} events, {} heard, {} returns, {} repeats, {} gap notices",
            self.gaps.len(),
            self.taken,
            self.heard,
            self.returns,
            self.repeats,
            self.gaps.iter().sum::<usize>()
        )
    }
}

/// How many there are, and the first few.
fn some(all: &[String]) -> String {
    let mut text = all.len().to_string();
    for one in all.iter().take(5) {
        write!(text, "\n  {one}").unwrap();
    }
    text
}

/// Users who add templates on any pod, each the one after the other, at a steady pace in all.
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

    /// Lets everybody finish.
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
            // what became of it is in the ledger
            self.add(port, SHARED[turn % SHARED.len()]).await.ok();
        }
    }

    /// Adds a template, and notes what became of it. An error if the topic is not known to have it.
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

    /// `None` if the pod is gone before it answers.
    async fn ask(&self, port: u16, number: usize, shared: &[&str]) -> Option<Value> {
        let input = json!({ "name": number.to_string(), "shareLocationIds": shared });
        let body = json!({ "query": ADD, "variables": { "input": input } });
        let request = self.client.post(format!("http://127.0.0.1:{port}/graphql"));
        let request = request.header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {}", self.name)).body(body.to_string());
        serde_json::from_str(&request.send().await.ok()?.text().await.ok()?).ok()
    }
}
