//! Faults around a healthy pod: a foreign lock, a pooler, a full disk, a clock that steps.
//!
//! No event that the server acknowledged may ever be lost, and the pod goes on by itself.

use std::{
    os::unix::fs::chown,
    process::{Child, Command},
};

use futures_util::future::join_all;
use pubsub_relay::broker::{Publish as _, Trim as _};
use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::{PATIENCE, WINDOW, emulator, event, next, own::OwnPostgres, postgres, topic, until_open};

#[tokio::test(flavor = "multi_thread")]
async fn foreign_lock_is_named_and_passes() {
    let Some((host, database)) = postgres::fresh("a foreign lock").await else { return };
    let pod = topic(&host, &database, "relay").open("pod", WINDOW).unwrap();
    let (mut feed, publisher) = (pod.open_feed(), pod.publisher());
    until_open(&feed).await;
    let mut foreign = postgres::connect(&host, &database).await;
    let open = foreign.transaction().await.unwrap();
    let insert = "insert into relay.events (id, source, type, data) values ('1', '/foreign', 't.v1', '{}')";
    open.batch_execute(insert).await.unwrap();
    let began = Instant::now();
    let why = publisher.publish(&event("{}")).await.unwrap_err().to_string();
    assert!(why.contains("stays open: end it (pg_locks shows it)"), "{why}");
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    open.commit().await.unwrap();
    assert_eq!(&*next(&mut feed).await.source, "/foreign");
    publisher.publish(&event("{\"after\":1}")).await.unwrap();
    assert_eq!(next(&mut feed).await.data, "{\"after\":1}");
}

/// Pooler that is killed with the test.
struct Pooler(Child);

impl Drop for Pooler {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_carries_behind_pooler_of_transactions() {
    const EVENTS: usize = 100;
    const PROGRAM: &str = "/usr/sbin/pgbouncer";
    let Some(server) = OwnPostgres::start("pgbouncer", &[]).await else { return };
    if !std::fs::exists(PROGRAM).unwrap() {
        assert!(emulator::environment("CI").as_deref() != Some("true"), "install pgbouncer");
        return emulator::skip("pgbouncer", "install the package pgbouncer");
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let users = server.write("users.txt", "\"relay\" \"\"\n");
    let settings = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n",
        server.port(),
        users.display()
    );
    let settings = server.write("pgbouncer.ini", &settings);
    let _pooler = Pooler(server.command(PROGRAM).arg(settings).spawn().unwrap());
    let topic = topic(&format!("127.0.0.1:{port}"), "postgres", "relay");
    let pods = ["one", "two", "three"].map(|name| topic.open(name, WINDOW).unwrap());
    let mut feeds = pods.each_ref().map(|pod| pod.open_feed());
    for feed in &feeds {
        until_open(feed).await;
    }
    let publish = pods.iter().map(|pod| async {
        let publisher = pod.publisher();
        for n in 0..EVENTS {
            publisher.publish(&event(&n.to_string())).await.unwrap();
            pod.trimmer().trim().await.unwrap();
        }
    });
    join_all(publish).await;
    for feed in &mut feeds {
        for _ in 0..pods.len() * EVENTS {
            next(feed).await;
        }
    }
    let count = server.connect().await.query_one("select count(*) from relay.events", &[]).await.unwrap();
    assert_eq!(usize::try_from(count.get::<_, i64>(0)).unwrap(), pods.len() * EVENTS, "each once");
    let began = Instant::now();
    pods[0].publisher().publish(&event("last")).await.unwrap();
    assert_eq!(next(&mut feeds[1]).await.data, "last");
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}

/// Small file system, which is detached with the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Mounts a file system of this size; `None` without the right to.
    fn mount(place: std::path::PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&place).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&place).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_is_named_and_heals() {
    let Some(server) = OwnPostgres::start("a full disk", &[]).await else { return };
    let Some(disk) = SmallDisk::mount(server.folder.join("small"), "size=4m") else {
        return emulator::skip("a full disk", "only root may mount a small file system");
    };
    let (user, group) = server.user;
    chown(&disk.0, Some(user), Some(group)).unwrap();
    let pod = topic(&server.host(), "postgres", "relay").open("pod", WINDOW).unwrap();
    let (mut feed, publisher) = (pod.open_feed(), pod.publisher());
    until_open(&feed).await;
    let owner = server.connect().await;
    owner.batch_execute(&format!("create tablespace small location '{}'", disk.0.display())).await.unwrap();
    owner.batch_execute("alter table relay.events set tablespace small").await.unwrap();
    let mut taken = 0;
    let why = loop {
        // Text that does not shrink when the server compresses it.
        let mut random = rand::rng();
        let text: String = (0..500_000).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
        match publisher.publish(&event(&text)).await {
            Ok(()) => taken += 1,
            Err(error) => break error.to_string(),
        }
        assert!(taken < 20, "the disk is never full");
    };
    assert!(why.contains("give the server more disk"), "{why}");
    let grow = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.0).status().unwrap();
    assert!(grow.success());
    publisher.publish(&event("after")).await.unwrap();
    for _ in 0..taken {
        assert_eq!(next(&mut feed).await.data.len(), 500_000);
    }
    assert_eq!(next(&mut feed).await.data, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_that_steps_back_stops_no_event() {
    let Some((host, database)) = postgres::fresh("a clock that steps").await else { return };
    let pod = topic(&host, &database, "relay").open("pod", WINDOW).unwrap();
    let (mut feed, publisher) = (pod.open_feed(), pod.publisher());
    publisher.publish(&event("before")).await.ok();
    until_open(&feed).await;
    publisher.publish(&event("before")).await.unwrap();
    // The topic's time is then an hour ahead, as if the server's clock had been so before.
    let owner = postgres::connect(&host, &database).await;
    owner
        .batch_execute(
            "select setval('relay.clock', (extract(epoch from now()) * 1000000)::bigint + 3600000000)",
        )
        .await
        .unwrap();
    for n in 0..3 {
        publisher.publish(&event(&n.to_string())).await.unwrap();
    }
    let mut times = Vec::new();
    while times.len() < 4 {
        times.push(next(&mut feed).await.published.unwrap());
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let late = pod.open_feed();
    until_open(&late).await;
    drop(late);
    sleep(std::time::Duration::from_millis(10)).await;
    let mut again = pod.open_feed();
    let replayed = timeout(PATIENCE, async {
        let mut replayed = Vec::new();
        while replayed.len() < 4 {
            replayed.push(next(&mut again).await.published.unwrap());
        }
        replayed
    });
    assert_eq!(replayed.await.unwrap(), times, "a new pod has the same order");
}
