//! A PostgreSQL server for the tests of one binary.
//!
//! All tests of a binary share one, and each has a database of its own. With `CI=true` it must
//! never be skipped.

use std::path::PathBuf;

use pubsub_relay::cli::postgres::{PostgresError, PostgresServer};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::emulator::{environment, skip};

/// Returns the address of a server that all tests of this binary share. Without PostgreSQL it
/// prints what is missing and returns `None`. The server ends with the process.
pub(crate) async fn host(test: &str) -> Option<String> {
    static SHARED: OnceCell<Result<PostgresServer, String>> = OnceCell::const_new();
    match SHARED.get_or_init(start).await {
        Ok(server) => Some(server.host()),
        Err(missing) => {
            skip(test, missing);
            None
        }
    }
}

/// Starts a server, or returns what is missing for one. In CI nothing may be missing.
pub(crate) async fn start() -> Result<PostgresServer, String> {
    let path = environment("PATH").map(|path| PathBuf::from(path).into_os_string());
    let in_ci = environment("CI").as_deref() == Some("true");
    match PostgresServer::start(path.as_ref()).await {
        Err(missing @ (PostgresError::NotFound | PostgresError::NoUser)) if !in_ci => {
            Err(missing.to_string())
        }
        started => Ok(started.unwrap_or_else(|error| panic!("{error}"))),
    }
}

/// Returns the server and the name of a new database there. Without PostgreSQL it prints the reason
/// and returns `None`.
pub(crate) async fn fresh(test: &str) -> Option<(String, String)> {
    let host = host(test).await?;
    let database = format!("test_{}", uuid::Uuid::now_v7().simple());
    create(&host, &database).await;
    Some((host, database))
}

/// Creates a database on the server at `host`.
pub(crate) async fn create(host: &str, database: &str) {
    let admin = connect(host, "postgres").await;
    admin.batch_execute(&format!("create database {database}")).await.unwrap();
}

/// Connects to a database of the server at `host`, as a user who may do everything.
pub(crate) async fn connect(host: &str, database: &str) -> Client {
    connect_as(host, database, "relay").await
}

/// Connects to a database of the server at `host` as this user.
pub(crate) async fn connect_as(host: &str, database: &str, user: &str) -> Client {
    let url = format!("postgres://{user}@{host}/{database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::spawn(connection);
    client
}
