//! `relay cluster`: the tutorial's story on a laptop, in one process.
//!
//! It is the first command of a newcomer. It must never leave a process or a file behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{
    Client, Dialect, Http, PATIENCE, Relay, Setup, Topic, environment, eventually, free_ports, postgres,
    rabbitmq,
};

#[tokio::test(flavor = "multi_thread")]
async fn cluster_serves_story_and_leaves_nothing() {
    // The cluster starts an emulator of its own, so the test needs one on this machine
    if Topic::on_pubsub().await.is_none() {
        return;
    }
    let started = serve_story("pubsub:").await;
    assert!(!started.is_empty() || environment("PUBSUB_EMULATOR_HOST").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_runs_postgres_and_stops_it() {
    if postgres::host("a cluster on PostgreSQL").await.is_none() {
        return;
    }
    let started = serve_story("postgres:").await;
    let server = started.iter().find(|(name, _)| name == "postgres");
    let (_, folder) = server.unwrap_or_else(|| panic!("{started:?}"));
    assert!(folder.ends_with("data") && !folder.exists(), "{}", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_uses_rabbitmq_of_this_machine() {
    let Some(node) = rabbitmq::shared("a cluster on RabbitMQ").await else { return };
    let started = serve_story(&format!("rabbitmq:{}", node.port)).await;
    assert!(started.is_empty(), "{started:?}");
    let absent = format!("rabbitmq:{}", free_ports(1));
    let refused = Setup::cluster().command_line(&["cluster", "--broker", &absent]).run().await;
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("nothing answers at 127.0.0.1:") && text.contains("start RabbitMQ"), "{text}");
}

/// Runs the story on a cluster with this broker and ends it as a terminal does. Returns the
/// processes that it started: their names and folders.
async fn serve_story(broker: &str) -> Vec<(String, PathBuf)> {
    let setup = Setup::cluster();
    let port = setup.port().to_string();
    let mut setup = setup.command_line(&["cluster", "--pods", "4", "--port", &port, "--broker", broker]);
    for variable in ["PATH", "JAVA_HOME", "CLOUDSDK_ROOT_DIR", "PUBSUB_EMULATOR_HOST"] {
        if let Some(value) = environment(variable) {
            setup = setup.set(variable, value);
        }
    }
    let mut cluster = setup.launch();
    let ports = cluster.port()..cluster.port() + 4;
    for port in ports.clone() {
        let http = Http::new(port);
        eventually("every pod is ready", PATIENCE, async || {
            http.try_get("/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
    }
    for port in ports.clone() {
        assert!(cluster.output().contains(&port.to_string()), "{}", cluster.output());
    }

    eventually("the welcome is printed", PATIENCE, async || {
        cluster.output().contains("Ctrl-C").then_some(())
    })
    .await;
    check_tokens(&cluster.output()).await;

    run_story(&cluster).await;

    let children = descendants(cluster.pid());
    let started = children.iter().filter_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((name.trim_end().to_owned(), fs::read_link(format!("/proc/{pid}/cwd")).ok()?))
    });
    let started: Vec<_> = started.collect();
    cluster.signal("INT");
    assert_eq!(cluster.ended().await.code(), Some(0), "{}", cluster.output());
    eventually("no process that it started is left", PATIENCE, async || {
        children.iter().all(|pid| !is_running(*pid)).then_some(())
    })
    .await;
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_log_lines_name_their_pods() {
    for format in ["text", "json"] {
        let setup = Setup::cluster().set("JAVA_HOME", "/nowhere").set("RELAY_LOG", "debug");
        let mut cluster = setup.set("RELAY_LOG_FORMAT", format).start().await;
        eventually("the cluster is up", PATIENCE, async || {
            cluster.output().contains("Watch as ZOLO").then_some(())
        })
        .await;
        let mut client = Client::connect(cluster.port() + 1, Dialect::Transport, "ZOLO").await;
        client.watch().await;
        has_watcher(cluster.port() + 1).await;
        cluster.add_template("ZOWI", "story", Some(&["3"])).await;
        assert_eq!(client.next().await, "story");
        drop(client);
        let ended = |line: &&str| line.contains("connection ended") && line.contains("pod-2");
        eventually("the connection's end is logged", PATIENCE, async || {
            cluster.output().lines().find(ended).map(drop)
        })
        .await;
        cluster.signal("INT");
        assert_eq!(cluster.ended().await.code(), Some(0), "{}", cluster.output());
        let log = cluster.output();
        let names = ["pod-1", "pod-2", "pod-3", "pod-4"];
        for text in ["pod started", "feed caught up", "event dispatched", "pod drained"] {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
            for name in names {
                let of_pod = lines.iter().filter(|line| line.contains(name)).count();
                assert!(of_pod > 0, "{text}, {name}: {lines:#?}");
            }
        }
        let levels = ["INFO", "WARN", "DEBUG"];
        let is_word_char = |c: char| c.is_alphanumeric() || c == '_';
        let has_level = |line: &&str| line.split(|c| !is_word_char(c)).any(|word| levels.contains(&word));
        for line in log.lines().filter(has_level) {
            // What the process does before its pods start is of no pod.
            let is_of_all =
                [" main ", "emulator-output", "\"pod\":\"main\""].iter().any(|text| line.contains(text));
            assert!(is_of_all || names.iter().any(|name| line.contains(name)), "{line}");
        }
    }
}

/// Asserts that the tokens of a cluster's welcome do at its admin address what it says.
async fn check_tokens(welcome: &str) {
    let after = |mark: &str| {
        let rest = welcome.split(mark).nth(1).unwrap_or_else(|| panic!("{mark}: {welcome}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let admin = Http::new(after("For operators, at http://127.0.0.1:").parse().unwrap());
    let [debug, act] =
        ["token that reads:", "token that acts:"].map(|mark| format!("Bearer {}", after(mark)));
    assert_eq!(admin.get_with(&debug, "/debug/connections").await.status, 200);
    let nothing = Value::Null;
    assert_eq!(admin.post_with(&debug, "/admin/nothing", &nothing).await.status, 403);
    assert_eq!(admin.post_with(&act, "/admin/nothing", &nothing).await.status, 404);
}

/// Waits until the pod on this port has a watcher.
async fn has_watcher(port: u16) {
    let http = Http::new(port);
    eventually("the pod has a watcher", PATIENCE, async || {
        let metrics = http.get("/metrics").await.text;
        let is_it = |line: &str| line.starts_with("relay_watchers") && line.ends_with(" 1");
        metrics.lines().any(is_it).then_some(())
    })
    .await;
}

async fn run_story(cluster: &Relay) {
    let mut clients = Vec::new();
    for (port, user) in (cluster.port()..).zip(["ZOWI", "ZOLO", "ZEWI", "ZELO"]) {
        let mut client = Client::connect(port, Dialect::Transport, user).await;
        client.watch().await;
        clients.push(client);
    }
    for port in cluster.port()..cluster.port() + 4 {
        has_watcher(port).await;
    }
    cluster.add_template("ZOWI", "story", Some(&["3"])).await;
    for client in &mut clients[1..3] {
        assert_eq!(client.next().await, "story", "{}", client.user);
    }
    // Events of one author arrive in order, so ZELO has received nothing before this one
    cluster.add_template("ZOWI", "for location 1", Some(&["1"])).await;
    assert_eq!(clients[3].next().await, "for location 1");
}

/// Returns the processes that this process started, directly or indirectly.
fn descendants(ancestor: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<u32> =
        processes.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    let parents: Vec<(u32, u32)> = pids.iter().filter_map(|&pid| Some((pid, status(pid)?.1))).collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Returns the state of a process and its parent's id: the two fields after its name in
/// parentheses.
fn status(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Returns whether a process runs. A zombie, which waits for its parent to read its status, does
/// not run.
fn is_running(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}
