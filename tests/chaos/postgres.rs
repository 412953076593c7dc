//! Faults of a PostgreSQL server under load: all its processes are killed, or stand still.
//!
//! No event that it acknowledged may ever be lost, and pods must be ready within two seconds of the
//! end of the fault.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{broker::Scene, exclusive_turn, own::OwnPostgres, support::Topic};

/// Promised limit until every pod is ready again.
const READY_WITHIN: Duration = Duration::from_secs(2);

async fn scene(test: &str) -> Option<(OwnPostgres, Scene)> {
    let server = OwnPostgres::start(test, &[]).await?;
    let scene = Scene::open(Topic::in_postgres(&server.host(), "postgres")).await;
    Some((server, scene))
}

/// Waits until every pod is ready, asserts that it was soon, and that nothing was lost.
async fn close(mut scene: Scene, what: &str) {
    let end = Instant::now();
    scene.deployment.until_ready(Duration::from_secs(60)).await;
    let ready = end.elapsed();
    println!("{what}: ready again after {ready:?}");
    let refused = scene.close(what).await;
    assert!(refused > 0, "no mutation was refused: was there a fault?");
    assert!(ready < READY_WITHIN, "{ready:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_postgres_loses_no_acknowledged_event() {
    let _turn = exclusive_turn().await;
    let Some((mut server, scene)) = scene("kill -9 of PostgreSQL").await else { return };
    server.kill().await;
    scene.until_a_pod_is_unready().await;
    sleep(Duration::from_secs(2)).await;
    server.launch().await;
    close(scene, "PostgreSQL killed and started").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_postgres_loses_no_acknowledged_event() {
    let _turn = exclusive_turn().await;
    let Some((server, scene)) = scene("a hole of PostgreSQL").await else { return };
    server.signal("STOP");
    sleep(Duration::from_secs(10)).await;
    server.signal("CONT");
    close(scene, "PostgreSQL stopped for 10 s").await;
}
