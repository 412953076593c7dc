//! `relay doctor` of a topic in PostgreSQL: each planted fault is found, with its cure.
//!
//! It must never report a fault of a healthy topic, change anything, or leave a session behind.

use pubsub_relay::broker::postgres::schema;
use tokio_postgres::Client;

use crate::{
    doctor::{Report, doctor},
    own::OwnPostgres,
    support::{PATIENCE, Setup, eventually, free_ports, postgres},
};

/// Returns a doctor of the topic in this database, with the user of the pods.
fn examine(host: &str, database: &str, user: &str) -> Setup {
    doctor(&[]).set("RELAY_BROKER", format!("postgres://{host}/{database}")).set("RELAY_BROKER_USER", user)
}

/// Topic whose tables are made, in a database of its own.
struct Prepared {
    host: String,
    database: String,
    owner: Client,
}

impl Prepared {
    async fn new(test: &str) -> Option<Self> {
        let (host, database) = postgres::fresh(test).await?;
        let owner = postgres::connect(&host, &database).await;
        owner.batch_execute(&schema::script("relay")).await.unwrap();
        Some(Self { host, database, owner })
    }

    async fn run(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap();
    }

    async fn report(&self) -> Report {
        Report::of(examine(&self.host, &self.database, "relay")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_with_healthy_postgres() {
    let Some(topic) = Prepared::new("a healthy topic").await else { return };
    let url = format!("postgres://{}/{}", topic.host, topic.database);
    let pod = Setup::new("pod").set("RELAY_BROKER", url).set("RELAY_HEARTBEAT_INTERVAL", "1s").start().await;
    let report = topic.report().await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    for check in [
        "server",
        "schema",
        "rights",
        "primary",
        "connections",
        "lock",
        "publish",
        "receive",
        "notes",
        "clock",
        "retention",
    ] {
        assert!(report.line(check).starts_with("ok "), "{}", report.text);
    }
    for check in ["durability", "orphans", "keys", "drain", "addresses", "balancer"] {
        assert!(report.line(check).starts_with("skipped "), "{}", report.text);
    }
    let left = "select count(*) from pg_stat_activity where application_name = 'relay/doctor' \
                and datname = current_database()";
    eventually("no session is left", PATIENCE, async || {
        (topic.owner.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    assert!((pod.metric("relay_membership_pods").await - 1.0).abs() < 0.5, "the doctor is no member");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_absent_postgres() {
    let host = format!("127.0.0.1:{}", free_ports(1));
    let report = Report::of(examine(&host, "shop", "relay")).await;
    assert!(report.only_wrong("server").contains("check that the server runs"), "{}", report.text);
    assert!(report.line("orphans").starts_with("skipped"), "{}", report.text);
    let Some(topic) = Prepared::new("another database").await else { return };
    let report = Report::of(examine(&topic.host, "nowhere", "relay")).await;
    assert!(report.only_wrong("server").contains("create the database"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_and_other_tables() {
    let Some((host, database)) = postgres::fresh("missing tables").await else { return };
    let report = Report::of(examine(&host, &database, "relay")).await;
    let line = report.only_wrong("schema");
    assert!(
        line.contains("are missing. Cure: start a pod") && line.contains("relay schema --postgres"),
        "{line}"
    );
    assert!(report.line("publish").starts_with("skipped"), "{}", report.text);
    let tables = "select count(*) from pg_namespace where nspname = 'relay'";
    let owner = postgres::connect(&host, &database).await;
    assert_eq!(owner.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0, "the doctor makes none");

    owner.batch_execute(&schema::script("relay")).await.unwrap();
    for (change, found) in [("+ 1", "newer than this program's"), ("- 2", "older than this program's")] {
        owner.batch_execute(&format!("update relay.topic set version = version {change}")).await.unwrap();
        let report = Report::of(examine(&host, &database, "relay")).await;
        assert!(report.only_wrong("schema").contains(found), "{}", report.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_rights() {
    let Some(topic) = Prepared::new("missing rights").await else { return };
    topic.run("create role doctor_c login").await;
    let report = Report::of(examine(&topic.host, &topic.database, "doctor_c")).await;
    let line = report.only_wrong("rights").to_owned();
    assert!(report.line("schema").starts_with("skipped"), "{}", report.text);
    let cure = line.split_once("run as the owner: ").expect("a cure").1;
    assert_eq!(cure.matches("grant ").count(), 7, "{cure}");
    topic.run(cure).await;
    let report = Report::of(examine(&topic.host, &topic.database, "doctor_c")).await;
    assert_eq!(report.code, Some(0), "the cure is enough: {}", report.text);
    topic.run("revoke delete on relay.events from doctor_c").await;
    let report = Report::of(examine(&topic.host, &topic.database, "doctor_c")).await;
    let line = report.only_wrong("rights");
    assert!(line.ends_with("Cure: run as the owner: grant delete on relay.events to doctor_c;"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_servers_that_only_read() {
    let Some(server) = OwnPostgres::start("a standby", &[]).await else { return };
    let owner = server.connect().await;
    owner.batch_execute(&schema::script("relay")).await.unwrap();
    owner
        .batch_execute(
            "create role reader superuser login; alter role reader set default_transaction_read_only = on; \
             create role hasty superuser login; alter role hasty set synchronous_commit = off",
        )
        .await
        .unwrap();
    let standby = server.standby().await;
    for (host, user, found) in [
        (standby.host(), "relay", "is a standby"),
        (server.host(), "reader", "default_transaction_read_only"),
    ] {
        let report = Report::of(examine(&host, "postgres", user)).await;
        assert!(report.line("primary").starts_with("WRONG"), "{}", report.text);
        assert!(report.line("primary").contains(found), "{}", report.text);
        assert!(report.line("publish").contains("name the primary"), "{}", report.text);
    }
    let report = Report::of(examine(&server.host(), "postgres", "hasty")).await;
    assert!(report.only_wrong("durability").contains("set synchronous_commit = on"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_foreign_lock() {
    let Some(topic) = Prepared::new("a foreign lock").await else { return };
    topic.run("begin; insert into relay.events (id, source, type, data) values ('1', '/x', 't', '{}')").await;
    let report = topic.report().await;
    let line = report.line("lock");
    assert!(line.starts_with("WRONG") && line.contains("a transaction of relay holds the topic"), "{line}");
    let pid: i32 = topic.owner.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    assert!(line.contains(&format!("pg_terminate_backend({pid})")), "{line}");
    assert!(report.line("publish").contains("publish by the outbox"), "{}", report.text);
    topic.run("commit").await;
    assert_eq!(topic.report().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_missing_notes() {
    let Some(topic) = Prepared::new("missing notes").await else { return };
    // As behind a pooler of transactions.
    topic.run("drop trigger wake on relay.events").await;
    let report = topic.report().await;
    assert!(report.only_wrong("notes").contains("pgbouncer in session mode"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_hidden_rows() {
    let Some(topic) = Prepared::new("hidden rows").await else { return };
    topic
        .run(
            "create function relay.swallow() returns trigger language plpgsql as $$ begin return null; end $$; \
             create trigger swallow before insert on relay.events for each row execute function relay.swallow()",
        )
        .await;
    let report = topic.report().await;
    assert!(report.only_wrong("receive").contains("a trigger or a row-level policy"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_clock_that_stepped_back() {
    let Some(topic) = Prepared::new("a clock that steps").await else { return };
    topic.run("select setval('relay.clock', (extract(epoch from now()) * 1000000)::bigint + 60000000)").await;
    let report = topic.report().await;
    let line = report.only_wrong("clock");
    assert!(line.contains("ahead of the server's clock") && line.contains("by NTP"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_wrong_retention() {
    let Some(topic) = Prepared::new("retention").await else { return };
    let trim = |ago: &str| {
        format!(
            "update relay.topic set trimmed_to = (extract(epoch from now() - interval '{ago}') * 1000000)::bigint"
        )
    };
    topic.run(&trim("5 minutes")).await;
    let report = topic.report().await;
    assert!(report.only_wrong("retention").contains("the same RELAY_REPLAY_WINDOW"), "{}", report.text);
    topic.run(&trim("20 minutes")).await;
    let old = "insert into relay.events (id, source, type, data, position) values \
               ('old', '/x', 't', '{}', (extract(epoch from now() - interval '1 hour') * 1000000)::bigint)";
    topic.run(old).await;
    assert_eq!(topic.report().await.code, Some(0), "no pod has run");
    topic
        .run("insert into relay.events (id, source, type, data) values ('1', '/pods/a', 'relay.heartbeat.v1', '{}')")
        .await;
    let report = topic.report().await;
    assert!(report.only_wrong("retention").contains("is still there, although pods run"), "{}", report.text);
}
