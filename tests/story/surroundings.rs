//! What surrounds a pod: limits of the system, proxies, a collector that is away.
//!
//! None of them may be met by surprise, and each has a line in the log.

use std::{process::Stdio, time::Duration};

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::sleep};

use crate::support::{PATIENCE, Setup, Topic, eventually, free_ports};

#[tokio::test(flavor = "multi_thread")]
async fn pod_raises_limit_of_open_files() {
    let port = free_ports(1);
    let mut pod = tokio::process::Command::new("/bin/sh")
        .args(["-c", r#"ulimit -S -n 64; exec "$0""#, env!("CARGO_BIN_EXE_relay")])
        .env_clear()
        .env("RELAY_LISTEN", format!("127.0.0.1:{port}"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = crate::support::Http::new(port);
    eventually("the pod is up", PATIENCE, async || http.try_get("/livez").await).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pod.id().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|n| line.split_whitespace().nth(n).unwrap());
    assert_eq!(soft, hard, "{line}");
    pod.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_never_diverts_emulator_on_loopback() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    for variable in ["HTTP_PROXY", "all_proxy"] {
        let nowhere = format!("http://127.0.0.1:{}", free_ports(1));
        let pod = Setup::new("p").topic(&topic).set(variable, nowhere).start().await;
        pod.add_template("ZOWI", "a", None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_exports_are_logged_once() {
    let nowhere = format!("http://127.0.0.1:{}", free_ports(1));
    let pod = Setup::new("p")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere)
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
        .set("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .start()
        .await;
    let count = |signal: &str| {
        let output = pod.output();
        let is_it = |line: &&str| line.contains("telemetry not exported") && line.contains(signal);
        output.lines().filter(is_it).count()
    };
    eventually("both signals have failed", PATIENCE, async || {
        pod.add_template("ZOWI", "a", None).await;
        (count("traces") > 0 && count("metrics") > 0).then_some(())
    })
    .await;
    for _ in 0..5 {
        pod.add_template("ZOWI", "a", None).await;
        sleep(Duration::from_millis(150)).await;
    }
    assert_eq!([count("traces"), count("metrics")], [1, 1], "{}", pod.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_accept_is_logged_once() {
    let port = free_ports(1);
    let mut pod = tokio::process::Command::new("/bin/sh")
        .args(["-c", r#"ulimit -n 64; exec "$0""#, env!("CARGO_BIN_EXE_relay")])
        .env_clear()
        .env("RELAY_LISTEN", format!("127.0.0.1:{port}"))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = crate::support::Http::new(port);
    eventually("the pod is up", PATIENCE, async || http.try_get("/livez").await).await;
    let silent = join_all((0..100).map(|_| TcpStream::connect(("127.0.0.1", port)))).await;
    sleep(Duration::from_secs(1)).await;
    drop(silent);
    sleep(Duration::from_secs(6)).await;
    // The client above keeps its socket, so that nothing would have to be accepted.
    let http = crate::support::Http::new(port);
    eventually("the pod serves again", PATIENCE, async || http.try_get("/livez").await).await;
    pod.start_kill().unwrap();
    let output = pod.wait_with_output().await.unwrap();
    let output = String::from_utf8_lossy(&output.stderr);
    let lines = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    assert_eq!([lines("cannot accept"), lines("accepts sockets again")], [1, 1], "{output}");
}
