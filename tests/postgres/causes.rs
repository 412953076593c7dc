//! Why a pod does not get its events: one line with the cause and the cure.
//!
//! An operator reads these lines in `/readyz` and the log. They must never name the wrong thing to
//! change.

use pubsub_relay::broker::{Publish as _, postgres::schema, server::Password};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::{WINDOW, event, next, obstacle, own::OwnPostgres, postgres, topic, until_open};

#[tokio::test(flavor = "multi_thread")]
async fn feed_names_obstacle_and_cure() {
    let Some((host, database)) = postgres::fresh("obstacles").await else { return };
    let owner = postgres::connect(&host, &database).await;
    owner.batch_execute("create role relay_pods_b login").await.unwrap();
    let pods = topic(&host, &database, "relay_pods_b");
    let why = obstacle(&pods).await;
    assert!(why.contains("are missing") && why.contains("relay schema --postgres | psql"), "{why}");
    let why = obstacle(&topic(&host, "nowhere", "relay_pods_b")).await;
    assert!(why.contains("create the database"), "{why}");
    let why = obstacle(&topic(&host, &database, "unknown_b")).await;
    assert!(why.contains("RELAY_BROKER_USER"), "{why}");
    let mut encrypted = pods.clone();
    encrypted.server.tls = true;
    let why = obstacle(&encrypted).await;
    assert!(why.contains("TLS"), "{why}");
    let why = obstacle(&topic("127.0.0.1:1", &database, "relay_pods_b")).await;
    assert!(why.contains("check that the server runs"), "{why}");

    owner.batch_execute(&schema::script("relay")).await.unwrap();
    let why = obstacle(&pods).await;
    assert!(why.contains("grant the rights of docs/POSTGRES.md"), "{why}");
    owner.batch_execute("update relay.topic set version = version + 1").await.unwrap();
    let why = obstacle(&topic(&host, &database, "relay")).await;
    assert!(why.contains("newer"), "{why}");
}

/// Returns the PEM texts of an authority's certificate, of a certificate for `localhost` that it
/// signed, and of that one's key.
fn certificates() -> [String; 3] {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    [root, leaf.pem(), key.serialize_pem()]
}

#[tokio::test(flavor = "multi_thread")]
async fn login_and_certificate_are_verified() {
    let Some(mut server) = OwnPostgres::make("login and TLS").await else { return };
    let [root, certificate, key] = certificates();
    let root = server.write("root.pem", &root);
    let other = server.write("other.pem", &certificates()[0]);
    let certificate = server.write("server.pem", &certificate);
    let key = server.write("server.key", &key);
    server.set(&[
        "ssl=on",
        &format!("ssl_cert_file={}", certificate.display()),
        &format!("ssl_key_file={}", key.display()),
    ]);
    server.require_password("locked");
    server.launch().await;
    server
        .connect()
        .await
        .batch_execute("create role locked superuser login password 'right'")
        .await
        .unwrap();

    let mut encrypted = topic(&format!("localhost:{}", server.port()), "postgres", "relay");
    encrypted.server.tls = true;
    encrypted.server.login.ca_file = Some(root.clone());
    let pod = encrypted.open("pod", WINDOW).unwrap();
    let mut feed = pod.open_feed();
    until_open(&feed).await;
    pod.publisher().publish(&event("{}")).await.unwrap();
    assert_eq!(next(&mut feed).await.data, "{}");
    let sessions = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
                    where application_name = 'relay/pod' and ssl";
    let sessions = server.connect().await.query_one(sessions, &[]).await.unwrap();
    assert!(sessions.get::<_, i64>(0) > 0, "the connection is encrypted");

    let mut untrusted = encrypted.clone();
    untrusted.server.login.ca_file = Some(other);
    let why = obstacle(&untrusted).await;
    assert!(why.contains("certificate") && why.contains("RELAY_BROKER_CA_FILE"), "{why}");
    let mut misnamed = encrypted.clone();
    misnamed.server.host = "127.0.0.1".to_owned();
    let why = obstacle(&misnamed).await;
    assert!(why.contains("certificate") && why.contains("RELAY_BROKER to its name"), "{why}");

    let mut locked = topic(&server.host(), "postgres", "locked");
    let why = obstacle(&locked).await;
    assert!(why.contains("set RELAY_BROKER_PASSWORD_FILE"), "{why}");
    locked.server.login.password = Some(Password::new("wrong"));
    let why = obstacle(&locked).await;
    assert!(why.contains("correct RELAY_BROKER_USER and RELAY_BROKER_PASSWORD_FILE"), "{why}");
    assert!(!why.contains("wrong"), "{why}");
    locked.server.login.password = Some(Password::new("right"));
    until_open(&locked.open("pod", WINDOW).unwrap().open_feed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_and_read_only_user_are_refused() {
    let Some(server) = OwnPostgres::start("a standby", &[]).await else { return };
    let owner = server.connect().await;
    owner.batch_execute(&schema::script("relay")).await.unwrap();
    let reader =
        "create role reader superuser login; alter role reader set default_transaction_read_only = on";
    owner.batch_execute(reader).await.unwrap();
    let standby = server.standby().await;
    for refused in [topic(&standby.host(), "postgres", "relay"), topic(&server.host(), "postgres", "reader")]
    {
        let why = obstacle(&refused).await;
        assert!(why.contains("name the primary in RELAY_BROKER, not a standby"), "{why}");
        let published = refused.open("pod", WINDOW).unwrap().publisher().publish(&event("{}")).await;
        let why = published.unwrap_err().to_string();
        assert!(why.contains("name the primary"), "{why}");
    }
}
