//! The tables of a topic: one script for pods and for operators, with a version.
//!
//! A pod runs it where they are missing or old, if its role may. Else `/readyz` names the command.
//! It must never touch anything outside the topic's schema.

use tokio_postgres::{Client, error::SqlState};

use super::cause::Cause;

/// Version of the tables. A change of the script increments it.
pub const VERSION: i32 = 1;

/// Oldest server that understands the script, as `server_version_num`.
pub(super) const OLDEST_SERVER: i32 = 140_000;

/// Returns the script that makes the tables of this topic, or brings them to [`VERSION`]. The name
/// is a legal one, as [`Topic::parse`](super::Topic::parse) checks.
#[must_use]
pub fn script(topic: &str) -> String {
    include_str!("schema.sql").replace("{topic}", topic).replace("{version}", &VERSION.to_string())
}

/// Makes the tables of this topic if they are missing or old.
pub(super) async fn ensure(client: &Client, topic: &str) -> Result<(), Cause> {
    let version = client.query_typed_one(&format!("select version from {topic}.topic"), &[]).await;
    let state = match version.map(|row| row.get::<_, i32>(0)) {
        Ok(version) if version == VERSION => return Ok(()),
        Ok(version) if version > VERSION => {
            return Err(Cause::new(
                format!(
                    "the tables of the topic have version {version}, which is newer than this program's {VERSION}"
                ),
                "run the newer release",
            ));
        }
        Ok(version) => format!("have version {version}, which is older than this program's {VERSION}"),
        Err(error) if is_missing(&error) => "are missing".to_owned(),
        Err(error) => return Err(Cause::of(&error)),
    };
    check_server(client).await?;
    client.batch_execute(&script(topic)).await.map_err(|error| match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Cause::new(
            format!("the tables of the topic {state}, and this user may not make them"),
            "run as the owner of the database: relay schema --postgres | psql",
        ),
        _ => Cause::of(&error),
    })?;
    tracing::info!(topic, version = VERSION, "tables of the topic made");
    Ok(())
}

/// Checks that the server understands the script.
async fn check_server(client: &Client) -> Result<(), Cause> {
    let version = "select current_setting('server_version_num')::int, current_setting('server_version')";
    let row = client.query_typed_one(version, &[]).await.map_err(|error| Cause::of(&error))?;
    match row.get::<_, i32>(0) {
        number if number < OLDEST_SERVER => Err(too_old(row.get(1))),
        _ => Ok(()),
    }
}

/// Returns the cause if the server has this version, which is too old.
pub(super) fn too_old(version: &str) -> Cause {
    Cause::new(format!("PostgreSQL {version} is too old"), "upgrade the server to PostgreSQL 14 or newer")
}

/// Returns whether the schema or the table does not exist.
fn is_missing(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME))
}
