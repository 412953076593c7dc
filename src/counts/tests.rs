//! Counts over several pods on a topic of their own; time is paused.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use proptest::prelude::*;
use tokio::{select, sync::mpsc, task::JoinSet, time::sleep_until};

use super::*;
use crate::{
    audience::{Interests, Viewer},
    broker::{FeedState, Order, Publish, PublishError, Reopen},
    event::Event,
    hub::{Relayed, Render, Watch, Watching, window::Bounds},
    membership::{Heartbeat, Settings},
    telemetry::Metrics,
};

const TEN: Duration = Duration::from_secs(10);

/// Two intervals, and what the topic takes.
const SETTLED: Duration = Duration::from_millis(20_500);

/// Topic whose clock is the paused one.
struct Topic {
    began: (Instant, SystemTime),
    feeds: Mutex<Vec<mpsc::Sender<Event>>>,
    heartbeats: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl Publish for Topic {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        sleep(Duration::from_millis(20)).await;
        let (began, time) = self.began;
        let event = Event { published: Some(time + began.elapsed()), ..event.clone() };
        self.heartbeats.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        lock(&self.feeds).retain(|feed| feed.try_send(event.clone()).is_ok());
        Ok(())
    }

    async fn flush(&self) {}
}

impl Topic {
    fn new() -> Arc<Self> {
        let began = (Instant::now(), SystemTime::now());
        Arc::new(Self { began, feeds: Mutex::default(), heartbeats: Default::default() })
    }
}

struct Silent;

#[async_trait]
impl Render for Silent {
    async fn render(&self, _: &Relayed) -> Option<Arc<str>> {
        None
    }

    async fn render_again(&self, _: &Relayed) -> Option<Arc<str>> {
        None
    }

    fn gap(&self, _: &str, _: &str) -> Arc<str> {
        "gap".into()
    }
}

/// Pod that is killed when it is dropped.
struct Pod {
    hub: Hub,
    counts: Counts,
    _tasks: JoinSet<()>,
}

impl Pod {
    fn start(topic: &Arc<Topic>, name: &str) -> Self {
        Self::measured(topic, name, &opentelemetry::global::meter("test"))
    }

    fn measured(topic: &Arc<Topic>, name: &str, meter: &Meter) -> Self {
        let settings = Settings {
            pod: name.into(),
            interval: TEN,
            settle: Duration::from_millis(200),
            orphan_after: TEN * 18,
            secrets: None,
        };
        let membership = Membership::new(settings, meter);
        let hub = Hub::new("t", Bounds { span: TEN * 60, bytes: 1 << 20 }, SystemTime::now());
        let counts = Counts::new(hub.clone(), membership.clone(), meter).begin();
        let (feed, mut events) = mpsc::channel(1 << 10);
        lock(&topic.feeds).push(feed);
        membership.follow(&FeedState::Open(format!("{name}.1").into()), Order::Lanes);
        let (mut tasks, hearing) = (JoinSet::new(), membership.clone());
        tasks.spawn(async move {
            loop {
                let due = hearing.due();
                select! {
                    biased;
                    Some(event) = events.recv() => { hearing.hear(&event); }
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => { hearing.settle(); }
                }
            }
        });
        let (topic, running) = (topic.clone(), counts.clone());
        tasks.spawn(async move { membership.run(&*topic, &Reopen::default(), || 0).await });
        tasks.spawn(async move { running.run().await });
        Self { hub, counts, _tasks: tasks }
    }

    /// Adds a watcher of this user, who listens to these keys.
    fn listen(&self, user: &str, keys: &[&str]) -> Watching {
        let interests = Interests::new(keys.iter().map(|key| (*key).into()));
        let viewer = Arc::new(Viewer::new(user, interests));
        // Arguments narrow what a watcher receives, and not what its viewer listens to.
        let narrowed = Viewer::narrowed(&viewer, Interests::new(["|=7|room".into()]));
        self.hub.watch(Watch {
            id: 1,
            field: "f".into(),
            viewer: Arc::new(narrowed),
            operation: Arc::new(Silent),
            send_queue: SendQueue::new(1 << 16),
        })
    }

    fn ask(&self, key: &str) -> Option<u64> {
        self.counts.ask(&"asker".into(), &key.into()).unwrap()
    }

    /// Subscribes to the count of a key.
    fn watch(&self, key: &str) -> (Counting, Arc<SendQueue>) {
        let queue = SendQueue::new(1 << 16);
        (self.counts.watch(&"asker".into(), key.into(), "n", queue.clone(), 7).unwrap(), queue)
    }
}

/// Takes the counts that a subscription has been given.
fn taken(queue: &SendQueue) -> Vec<u64> {
    let count = |delivery: &Delivery| {
        let result: serde_json::Value = serde_json::from_str(&delivery.result.payload).unwrap();
        assert_eq!(delivery.watcher, 7);
        result["data"]["n"].as_u64().unwrap()
    };
    queue.take().iter().map(count).collect()
}

fn start(topic: &Arc<Topic>, count: usize) -> Vec<Pod> {
    (1..=count).map(|n| Pod::start(topic, &format!("pod-{n}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn viewers_of_all_pods_are_counted_once() {
    let topic = Topic::new();
    let pods = start(&topic, 4);
    sleep(TEN).await;
    let _listening: Vec<_> = pods
        .iter()
        .zip(["ann", "bob", "eve", "ann"])
        .flat_map(|(pod, user)| [pod.listen(user, &["room", "x"]), pod.listen(user, &["room"])])
        .collect();
    assert_eq!(pods[0].ask("room"), None, "no other pod has counted the key");
    sleep(TEN / 5 * 3).await;
    assert_eq!(pods[0].ask("room"), Some(3), "ann is connected to two pods");
    assert_eq!(pods[0].ask("x"), None);
    assert_eq!(pods[1].ask("room"), Some(3), "the key is counted already");
    sleep(SETTLED).await;
    assert_eq!((pods[2].ask("x"), pods[2].ask("empty")), (Some(3), None));
    sleep(SETTLED).await;
    assert_eq!(pods[2].ask("empty"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn count_is_right_two_intervals_after_crash() {
    let topic = Topic::new();
    let mut pods = start(&topic, 3);
    sleep(TEN).await;
    let users: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let listen = |pod: &Pod, users: &[String]| -> Vec<Watching> {
        users.iter().map(|user| pod.listen(user, &["room"])).collect()
    };
    let mut listening: Vec<_> = (0..3).map(|n| listen(&pods[n], &users[20 * n..20 * (n + 1)])).collect();
    let (_counting, queue) = pods[0].watch("room");
    sleep(SETTLED).await;
    assert_eq!((pods[0].ask("room"), taken(&queue).last()), (Some(60), Some(&60)));

    drop(pods.pop());
    listening.pop();
    sleep(Duration::from_secs(1)).await;
    // Half of the clients are back, and the others stay away.
    let _back = listen(&pods[1], &users[40..50]);
    sleep(SETTLED - Duration::from_secs(1)).await;
    assert_eq!((pods[0].ask("room"), pods[1].ask("room")), (Some(50), Some(50)));
    assert_eq!(taken(&queue).last(), Some(&50));
}

#[tokio::test(start_paused = true)]
async fn subscription_yields_few_changes_an_interval() {
    let topic = Topic::new();
    let pods = start(&topic, 2);
    sleep(TEN).await;
    let (counting, queue) = pods[0].watch("room");
    sleep(SETTLED).await;
    assert_eq!(taken(&queue), [0]);
    let mut given = Vec::new();
    let mut listening = Vec::new();
    for n in 0..120 {
        listening.push(pods[n % 2].listen(&n.to_string(), &["room"]));
        sleep(TEN / 20).await;
        given.extend(taken(&queue));
    }
    // Six intervals
    assert!((50..=61).contains(&given.len()) && given.is_sorted(), "{given:?}");
    sleep(SETTLED).await;
    assert_eq!(taken(&queue).last(), Some(&120));
    sleep(TEN * 6).await;
    assert!(taken(&queue).is_empty(), "nothing has changed");
    drop(counting);
    sleep(TEN).await;
    assert_eq!(pods[0].counts.state().asked.len(), 0, "nothing asks for the key any more");
}

#[tokio::test(start_paused = true)]
async fn pod_without_counts_is_tolerated() {
    let topic = Topic::new();
    let pods = start(&topic, 2);
    let older = topic.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let event = Heartbeat::new("older".into(), "older.1".into(), 5, TEN).event();
            older.publish(&event).await.unwrap();
            sleep(TEN / 10 * 9).await;
        }
    });
    sleep(TEN).await;
    let _listening = pods[1].listen("ann", &["room"]);
    pods[0].ask("room");
    sleep(TEN).await;
    assert_eq!(pods[0].ask("room"), None, "the older pod might still count it");
    sleep(SETTLED).await;
    assert_eq!(pods[0].ask("room"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn asked_keys_are_bounded() {
    let topic = Topic::new();
    let pod = Pod::start(&topic, "pod-1");
    let ask = |user: usize, key: usize| {
        pod.counts.ask(&user.to_string().into(), &format!("room:{key}").into()).map(|_| ())
    };
    for key in 0..MAX_OF_USER {
        assert_eq!(ask(0, key), Ok(()));
    }
    assert_eq!(ask(0, MAX_OF_USER), Err(TooMany::OfUser));
    assert_eq!(ask(0, 0), Ok(()), "it is asked for already");
    for key in MAX_OF_USER..256 {
        assert_eq!(ask(key / MAX_OF_USER, key), Ok(()));
    }
    assert_eq!(ask(20, 256), Err(TooMany::OfPod));
    assert_eq!(ask(20, 0), Ok(()), "others ask for it already");
    sleep(TEN * (KEPT + 1)).await;
    assert_eq!(ask(20, 256), Ok(()), "queries ask for some time");
}

#[tokio::test(start_paused = true)]
async fn subscriptions_of_user_are_bounded() {
    let topic = Topic::new();
    let pod = Pod::start(&topic, "pod-1");
    let watch = |user: &str, key: usize| {
        pod.counts.watch(&user.into(), format!("room:{key}").into(), "n", SendQueue::new(1 << 16), 1)
    };
    let mut held: Vec<_> = (0..MAX_WATCHERS_OF_USER).map(|n| watch("a", n % 2).ok().unwrap()).collect();
    assert_eq!(watch("a", 0).err(), Some(TooMany::Subscriptions));
    assert!(watch("b", 0).is_ok(), "others have their own");
    held.pop();
    assert!(watch("a", 1).is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_in_metric() {
    let (topic, metrics) = (Topic::new(), Metrics::new("pod-1", false).unwrap());
    let pod = Pod::measured(&topic, "pod-1", &metrics.meter());
    let refusals = || {
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("relay_refusals_total{limit=\"counts\"} "));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let ask = |key: usize| pod.counts.ask(&"a".into(), &format!("room:{key}").into()).map(drop);
    let watch = |key: usize| {
        pod.counts.watch(&"a".into(), format!("room:{key}").into(), "n", SendQueue::new(1 << 16), 1)
    };
    for key in 0..MAX_OF_USER {
        assert_eq!(ask(key), Ok(()));
    }
    let _held: Vec<_> = (0..MAX_WATCHERS_OF_USER).map(|_| watch(0).ok().unwrap()).collect();
    assert_eq!(refusals(), 0);
    assert_eq!((ask(MAX_OF_USER), refusals()), (Err(TooMany::OfUser), 1));
    assert_eq!((watch(0).err(), refusals()), (Some(TooMany::Subscriptions), 2));
}

#[tokio::test(start_paused = true)]
async fn new_keys_hasten_few_heartbeats() {
    let topic = Topic::new();
    let pods = start(&topic, 2);
    sleep(TEN).await;
    let before = topic.heartbeats.load(std::sync::atomic::Ordering::Relaxed);
    for n in 0..100 {
        pods[0].counts.ask(&n.to_string().into(), &format!("room:{n}").into()).unwrap();
        sleep(TEN / 10).await;
    }
    let heartbeats = topic.heartbeats.load(std::sync::atomic::Ordering::Relaxed) - before;
    // Two pods, ten intervals; at most two in each interval come before their time.
    assert!(heartbeats <= 2 * 10 * 3 + 4, "{heartbeats}");
}

/// Step of a random story: what happens to which pod.
#[derive(Clone, Debug)]
enum Change {
    Listen(usize, u8),
    Leave(usize),
    Kill(usize),
    Start,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Change>> {
    let step = prop_oneof![
        4 => (0usize..6, 0u8..30).prop_map(|(pod, user)| Change::Listen(pod, user)),
        2 => (0usize..40).prop_map(Change::Leave),
        1 => (0usize..6).prop_map(Change::Kill),
        1 => Just(Change::Start),
        2 => (0u64..15).prop_map(Change::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares with the set of users who listen, two intervals after the last of any changes.
    #[test]
    fn counts_agree_with_listening_users(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let topic = Topic::new();
            let mut started = 3;
            let mut pods = start(&topic, started);
            let mut listening: Vec<(usize, String, Watching)> = Vec::new();
            let mut names: Vec<usize> = (0..started).collect();
            sleep(TEN).await;
            for step in steps {
                match step {
                    Change::Listen(pod, user) => {
                        let (at, user) = (pod % pods.len(), user.to_string());
                        listening.push((names[at], user.clone(), pods[at].listen(&user, &["room"])));
                    }
                    Change::Leave(at) => {
                        if !listening.is_empty() {
                            let at = at % listening.len();
                            listening.swap_remove(at);
                        }
                    }
                    Change::Kill(at) if pods.len() > 1 => {
                        let at = at % pods.len();
                        pods.remove(at);
                        let name = names.remove(at);
                        listening.retain(|(pod, ..)| *pod != name);
                    }
                    Change::Kill(_) => {}
                    Change::Start => {
                        pods.push(Pod::start(&topic, &format!("pod-{}", started + 1)));
                        names.push(started);
                        started += 1;
                    }
                    Change::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
                }
                pods.iter().for_each(|pod| { pod.ask("room"); });
            }
            sleep(SETTLED).await;
            let users: BTreeSet<&String> = listening.iter().map(|(_, user, _)| user).collect();
            let told_apart = pods.iter().all(|pod| own(&pod.hub, &"room".into()).count <= 16);
            for pod in &pods {
                let count = pod.ask("room");
                if told_apart {
                    prop_assert_eq!(count, Some(users.len() as u64));
                } else {
                    prop_assert!(count.is_some_and(|count| count >= users.len() as u64));
                }
            }
            Ok(())
        })?;
    }
}
