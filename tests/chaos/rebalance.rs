//! Pods that are added under load, and the connections that move to them.
//!
//! This is what follows a scale-up. A client that moves must never miss an event, and nothing may
//! ever move in a drain or an outage, or where the clients come back to the same pod.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    deployment::Deployment,
    exclusive_turn,
    oracle::{Ledger, Traffic},
    proxy::{Fault, Proxy},
    resuming::{Balance, Crowd, NARROW},
    shared_turn,
    support::{PATIENCE, Topic, USERS, eventually},
};

/// Heartbeat intervals for which nothing moves after the membership has grown.
const QUIET: u32 = 12;

/// Heartbeat intervals of one round.
const ROUND: u32 = 2;

/// Heartbeat intervals after the last growth within which connections are balanced.
const BALANCED: u32 = QUIET + 15 * ROUND;

/// Most clients of a pod, as a share of the mean.
const MOST: f64 = 1.2;

/// WebSocket close code of a move, and of a drain.
const MOVED: u16 = 1012;

/// Size of a scenario.
struct Size {
    clients: usize,
    events_per_second: u32,
    /// Pods before and after the growth.
    pods: [usize; 2],
    /// `RELAY_HEARTBEAT_INTERVAL`, in seconds.
    heartbeat: u32,
    balance: Balance,
}

const SHORT: Size =
    Size { clients: 240, events_per_second: 8, pods: [2, 4], heartbeat: 1, balance: Balance::Fewest };
const LONG: Size =
    Size { clients: 2_000, events_per_second: 4, pods: [2, 6], heartbeat: 10, balance: Balance::Even };

impl Size {
    fn intervals(&self, count: u32) -> Duration {
        Duration::from_secs((self.heartbeat * count).into())
    }
}

/// Clients of all users under load, and pods that share a secret.
struct Scene {
    topic: Topic,
    deployment: Deployment,
    crowd: Crowd,
    ledger: Ledger,
    traffic: Traffic,
}

impl Scene {
    /// Opens the scene on this topic, which the pods see at another address if one is given.
    async fn open(topic: Topic, seen_at: Option<String>, size: &Size) -> Self {
        let interval = format!("{}s", size.heartbeat);
        let settings = [
            ("RELAY_CONTROL_SECRET", "a control secret of more than 32 bytes"),
            ("RELAY_HEARTBEAT_INTERVAL", &*interval),
            ("RELAY_DRAIN_DELAY", "20s"),
        ];
        let seen = seen_at.map_or_else(|| topic.clone(), |host| topic.seen_at(&host));
        let deployment = Deployment::start(&seen, size.pods[0], &settings).await;
        let ports = deployment.ports.balanced(size.balance);
        let crowd = Crowd::gather(&ports, &USERS, size.clients, NARROW).await;
        let ledger = Ledger::default();
        let traffic = Traffic::start(&ledger, &deployment.ports, size.events_per_second);
        Self { topic, deployment, crowd, ledger, traffic }
    }

    /// Adds pods. Returns when the last one was ready.
    async fn grow(&mut self, pods: usize) -> Instant {
        for _ in 0..pods {
            self.deployment.add(None).await;
        }
        Instant::now()
    }

    /// Returns the most clients of a pod, as a share of the mean.
    fn spread(&self) -> f64 {
        let clients = self.deployment.ports.clients();
        let share = |count: usize| f64::from(u32::try_from(count).unwrap());
        let (most, all) = (clients.iter().max().unwrap(), clients.iter().sum());
        share(*most) * share(clients.len()) / share(all)
    }

    /// Returns when connections were moved, in order. Ends at the port `but` do not count.
    fn moves(&self, but: Option<u16>) -> Vec<Instant> {
        let mut moves: Vec<Instant> = Vec::new();
        for record in self.crowd.records() {
            let moved = record.ends.iter().filter(|end| end.code == MOVED && Some(end.port) != but);
            moves.extend(moved.map(|end| end.at));
        }
        moves.sort_unstable();
        moves
    }

    async fn until_moving(&self, but: Option<u16>) {
        let before = self.moves(but).len();
        eventually("connections move", Duration::from_secs(60), async || {
            (self.moves(but).len() > before + 5).then_some(())
        })
        .await;
    }

    /// Asserts that nothing moves from now on, for this time.
    async fn assert_still(&self, what: &str, but: Option<u16>, during: Duration) {
        let before = self.moves(but).len();
        sleep(during).await;
        assert_eq!(self.moves(but).len(), before, "connections move: {what}");
    }

    async fn close(self, what: &str) {
        self.traffic.stop().await;
        let verdict = self.ledger.settle(&self.topic, &[&self.crowd]).await;
        println!("{what}: {}", verdict.summary());
        verdict.assert_flawless();
        verdict.assert_ordered();
    }
}

/// Asserts that no second has more than three times the even share of the moves of its round, or of
/// all moves.
fn assert_even(moves: &[Instant], round: Duration) {
    let first = moves[0];
    let second = |at: &Instant| usize::try_from((*at - first).as_secs()).unwrap();
    let mut counts = vec![0_u32; second(&moves[moves.len() - 1]) + 1];
    for at in moves {
        counts[second(at)] += 1;
    }
    let mean = |counts: &[u32]| {
        f64::from(counts.iter().sum::<u32>()) / f64::from(u32::try_from(counts.len()).unwrap())
    };
    let (all, most) = (mean(&counts), counts.iter().max().unwrap());
    println!("{} moves in {} s: {all:.1} a second, {most} at most", moves.len(), counts.len());
    for round in counts.chunks(usize::try_from(round.as_secs()).unwrap()) {
        let limit = 3.0 * mean(round).max(all);
        assert!(round.iter().all(|count| f64::from(*count) <= limit), "{round:?}, at most {limit}");
    }
}

async fn grow(size: Size) {
    let Some(topic) = Topic::fresh().await else { return };
    let mut scene = Scene::open(topic, None, &size).await;
    let grown = scene.grow(size.pods[1] - size.pods[0]).await;
    let before = scene.spread();
    eventually("connections are balanced", size.intervals(BALANCED), async || {
        (scene.spread() <= MOST).then_some(())
    })
    .await;
    println!("the fullest pod had {before:.2} of the mean, and after {:?} {MOST}", grown.elapsed());
    if size.clients >= LONG.clients {
        sleep_until(grown + size.intervals(BALANCED)).await;
        println!("{:.2} of the mean at the end of the stated time", scene.spread());
        assert!(scene.spread() <= MOST);
    }
    let moves = scene.moves(None);
    assert!(moves[0] >= grown + size.intervals(QUIET - ROUND), "nothing moves before the quiet time is over");
    assert_even(&moves, size.intervals(ROUND));
    let ended = scene.deployment.metric_of("relay_connection_ends_total", r#"reason="moved""#).await;
    assert!(ended >= f64::from(u32::try_from(moves.len()).unwrap()), "the pods count {ended}");
    scene.close("growth").await;
}

async fn affinity(size: Size) {
    let Some(topic) = Topic::fresh().await else { return };
    let mut scene = Scene::open(topic, None, &size).await;
    let [old, new] = size.pods;
    let grown = scene.grow(new - old).await;
    let before = scene.deployment.ports.clients();
    scene.until_moving(None).await;
    sleep_until(grown + size.intervals(QUIET + 7 * ROUND)).await;
    let moved = scene.moves(None).len();
    // Two rounds, and a quarter of the surplus in each of them.
    let each = (size.clients / old - size.clients / new).div_ceil(4);
    println!("affinity: {moved} moves, at most {}", 2 * old * each);
    assert!(moved <= 2 * old * (each + 1), "{moved} moves in vain");
    scene.assert_still("with affinity", None, size.intervals(3 * ROUND)).await;
    assert_eq!(scene.deployment.ports.clients(), before, "all clients are back");
    scene.close("affinity").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_move_to_new_pods() {
    let _turn = shared_turn().await;
    grow(SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn two_thousand_connections_spread_over_new_pods() {
    let _turn = exclusive_turn().await;
    grow(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_stop_where_clients_come_back() {
    let _turn = shared_turn().await;
    affinity(Size { clients: 60, balance: Balance::Affinity, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn two_thousand_moves_stop_with_affinity() {
    let _turn = exclusive_turn().await;
    affinity(Size { heartbeat: 2, balance: Balance::Affinity, ..LONG }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn nothing_moves_in_drain_and_outage() {
    let _turn = exclusive_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let proxy = Proxy::start(topic.host()).await;
    let size = Size { clients: 400, ..SHORT };
    let mut scene = Scene::open(topic, Some(proxy.host()), &size).await;

    // A pod drains from the growth on, and then the membership has shrunk.
    scene.grow(3).await;
    let mut draining = scene.deployment.retire_newest();
    draining.signal("TERM");
    let port = Some(draining.port());
    scene.assert_still("a new pod drains", port, size.intervals(QUIET + 3 * ROUND)).await;
    assert_eq!(draining.ended().await.code(), Some(0));
    scene.assert_still("the membership has shrunk", port, size.intervals(QUIET + 3 * ROUND)).await;

    // A pod begins to drain while connections move.
    scene.grow(1).await;
    scene.until_moving(port).await;
    let mut draining = scene.deployment.retire_newest();
    draining.signal("TERM");
    let port = Some(draining.port());
    sleep(Duration::from_millis(500)).await;
    scene.assert_still("a pod begins to drain", port, size.intervals(5 * ROUND)).await;
    assert_eq!(draining.ended().await.code(), Some(0));

    // The broker goes away while connections move.
    scene.grow(1).await;
    scene.until_moving(port).await;
    proxy.set(Fault::BlackHole);
    for pod in &scene.deployment.pods {
        eventually("the pod is unready", PATIENCE, async || {
            (pod.http.get("/readyz").await.status == 503).then_some(())
        })
        .await;
    }
    scene.assert_still("the broker is away", port, size.intervals(5 * ROUND)).await;
    proxy.set(Fault::None);
    scene.deployment.until_ready(Duration::from_secs(60)).await;
    scene.ledger.revive(&scene.topic, &[&scene.crowd]).await;
    scene.close("drains and an outage").await;
}
