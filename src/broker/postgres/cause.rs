//! [`Cause`]: why PostgreSQL did not do what it was asked, as one sentence with its cure.
//!
//! The pod's log, `/readyz` and the doctor use the same sentences. A sentence must never contain a
//! password or the data of an event.

use std::{error::Error, fmt, iter::successors};

use tokio_postgres::error::SqlState;

/// Cure of a server or a session that may not write.
const WRITABLE: &str =
    "name the primary in RELAY_BROKER, not a standby, and turn default_transaction_read_only off";

/// Cause of a failure, and its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What happened.
    pub what: String,
    /// What the operator can do about it.
    pub cure: String,
}

impl Cause {
    /// Creates a cause from its words.
    pub(super) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what: what.into(), cure: cure.into() }
    }

    /// Returns why the server or the connection failed.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else { return Self::without_answer(error) };
        let code = refusal.code();
        let cure = match code {
            &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                "correct RELAY_BROKER_USER and RELAY_BROKER_PASSWORD_FILE, or the server's pg_hba.conf"
            }
            &SqlState::INVALID_CATALOG_NAME => "create the database, or correct RELAY_BROKER",
            &SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_FUNCTION => {
                "run as the owner of the database: relay schema --postgres | psql"
            }
            &SqlState::INSUFFICIENT_PRIVILEGE => "grant the rights of docs/POSTGRES.md to RELAY_BROKER_USER",
            &SqlState::READ_ONLY_SQL_TRANSACTION => WRITABLE,
            &SqlState::LOCK_NOT_AVAILABLE => {
                "a transaction that writes to the table events stays open: end it (pg_locks shows it), and \
                 publish by the outbox"
            }
            &SqlState::DISK_FULL => "give the server more disk, or shorten RELAY_REPLAY_WINDOW",
            &SqlState::TOO_MANY_CONNECTIONS => "raise max_connections: each pod takes three",
            &SqlState::CANNOT_CONNECT_NOW | &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN => {
                "wait until the server is up again"
            }
            &SqlState::QUERY_CANCELED => "the server is overloaded, or an administrator canceled it",
            _ => "see the server's log",
        };
        Self::new(format!("PostgreSQL refuses ({}): {}", code.code(), refusal.message()), cure)
    }

    /// Returns why there was no answer of the server.
    fn without_answer(error: &tokio_postgres::Error) -> Self {
        let causes = successors(error.source(), |&cause| cause.source());
        let root = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
        let cure = if root.contains("does not support TLS") {
            "let the server speak TLS, or add tls=off to RELAY_BROKER if the network is safe"
        } else if root.contains("certificate") {
            "set RELAY_BROKER_CA_FILE to the authority of the server's certificate, and RELAY_BROKER to its name"
        } else if root.contains("password") {
            "set RELAY_BROKER_PASSWORD_FILE"
        } else {
            "check that the server runs and that the pods may reach it"
        };
        Self::new(format!("no answer of PostgreSQL: {root}"), cure)
    }

    /// Returns the cause of sessions that may not write.
    pub(super) fn read_only() -> Self {
        Self::new("PostgreSQL lets this user read only", WRITABLE)
    }

    /// Returns the cause of a missing answer.
    pub(super) fn silent(what: &str) -> Self {
        Self::new(
            format!("PostgreSQL did not answer in time ({what})"),
            "check the network and the server's load",
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

impl Error for Cause {}
