//! Probes of the admin address while clients do what they can to keep the pod busy.

use std::time::Duration;

use tokio::{net::TcpStream, time::Instant};

use crate::{
    raw::Raw,
    support::{Http, Setup, free_ports},
};

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_while_places_are_taken() {
    let admin = free_ports(1);
    let pod = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    let (probes, port) = (Http::new(admin), pod.port());
    let mut pod = pod.launch();
    pod.http = probes.clone();
    pod.until_ready(Duration::from_secs(30)).await;
    let mut bodies = Vec::new();
    for _ in 0..200 {
        bodies.push(Raw::begin_body(port, "ZOLO", 1_000).await);
    }
    let mut silent = Vec::new();
    let mut longest = Duration::ZERO;
    for n in 0..3_000 {
        // Beyond the backlog a connect waits for the pod.
        let connect = TcpStream::connect(("127.0.0.1", port));
        silent.extend(tokio::time::timeout(Duration::from_millis(100), connect).await);
        if n % 100 == 0 {
            for path in ["/livez", "/readyz"] {
                let began = Instant::now();
                let answer = probes.get(path).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                longest = longest.max(began.elapsed());
            }
        }
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
