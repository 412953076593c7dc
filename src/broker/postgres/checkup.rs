//! [`Checkup`]: what `relay doctor` asks of PostgreSQL: the server, the tables, the rights, and a
//! trial event.
//!
//! It reports facts, and the command judges them. It must never change anything: it publishes one
//! heartbeat that makes no member, and runs no script.

use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::TaskTracker;

use super::{
    cause::Cause,
    publisher, row, schema,
    session::{Access, Session},
    settings::{EXTRA_RETENTION, Topic},
};
use crate::{
    broker::{Publish as _, PublishError},
    event::{Event, HEARTBEAT},
};

/// Longest wait for the answer to one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a note. Readers poll after the same time, so that a later note is of no use.
const NOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two looks at the lock of the topic. A pod holds it for milliseconds.
const LOCK_HELD: Duration = Duration::from_secs(1);

/// Age of the newest heartbeat up to which pods run: three intervals of a large membership.
const PODS_RUN: Duration = Duration::from_secs(180);

/// Checkup of one topic. It leaves everything as it was.
pub struct Checkup {
    access: Access,
    session: Session,
}

/// State of the server and of this user's session.
pub struct ServerFacts {
    /// Version, such as `15.18`.
    pub version: String,
    /// Why the version cannot be used; `None`: it can.
    pub too_old: Option<Cause>,
    /// Encoding of the database.
    pub encoding: String,
    /// Whether the server is a standby.
    pub is_standby: bool,
    /// Whether sessions of this user may only read.
    pub is_read_only: bool,
    /// Value of `synchronous_commit` for this user.
    pub synchronous_commit: String,
    /// Whether a commit waits for a standby.
    pub has_synchronous_standby: bool,
    /// Value of `fsync`.
    pub fsync: bool,
    /// Value of `autovacuum`.
    pub autovacuum: bool,
    /// Time of the server, and that of this machine at the same moment.
    pub clock: (SystemTime, SystemTime),
    /// Connections of all databases.
    pub connections: i64,
    /// Most connections of ordinary users.
    pub max_connections: i64,
}

/// State of the topic's tables.
pub enum Tables {
    /// There are none. Whether this user may make them.
    Missing(bool),
    /// They are there, and this user may not read their version.
    Hidden,
    /// They have this version.
    Version(i32),
}

/// State of the log.
pub struct LogFacts {
    /// Age of the oldest event by the server's clock; `None`: there is no event.
    pub oldest: Option<Duration>,
    /// Time by which the newest event is ahead of the server's clock.
    pub ahead: Duration,
    /// Age of the newest event that was deleted; `None`: none was.
    pub trimmed: Option<Duration>,
    /// Time for which pods keep events beyond the replay window.
    pub extra_retention: Duration,
    /// Whether pods have sent heartbeats lately.
    pub pods_run: bool,
}

/// What became of the trial event.
pub struct Trial {
    /// Whether the table took it.
    pub published: Result<(), PublishError>,
    /// Whether it can be read; `None`: it was not published.
    pub is_read: Option<Result<bool, Cause>>,
    /// Whether its note woke this session.
    pub has_note: bool,
}

/// Session that holds the lock of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Id of the session's process at the server.
    pub pid: i32,
    /// Name of its user.
    pub user: String,
    /// Its transaction.
    transaction: String,
}

impl Checkup {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Cause`], as a pod would report it.
    pub async fn connect(topic: Topic, pod: &str) -> Result<Self, Cause> {
        let access = Access::new(topic, pod)
            .map_err(|error| Cause::new(error.to_string(), "correct RELAY_BROKER_CA_FILE"))?;
        let session = Session::open(&access, &TaskTracker::new()).await?;
        Ok(Self { access, session })
    }

    /// Returns the state of the server.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn server(&self) -> Result<ServerFacts, Cause> {
        let asked = SystemTime::now();
        let row = self
            .ask(
                "select current_setting('server_version'), current_setting('server_version_num')::int, \
                 current_setting('server_encoding'), pg_is_in_recovery(), \
                 current_setting('transaction_read_only') = 'on', current_setting('synchronous_commit'), \
                 current_setting('synchronous_standby_names') <> '', current_setting('fsync') = 'on', \
                 current_setting('autovacuum') = 'on', (select sum(numbackends) from pg_stat_database)::bigint, \
                 current_setting('max_connections')::bigint \
                 - current_setting('superuser_reserved_connections')::bigint, \
                 (extract(epoch from clock_timestamp()) * 1000000)::bigint",
            )
            .await?;
        // The server read its clock about half-way between question and answer.
        let ours = asked + asked.elapsed().unwrap_or_default() / 2;
        let version: String = row.get(0);
        Ok(ServerFacts {
            too_old: (row.get::<_, i32>(1) < schema::OLDEST_SERVER).then(|| schema::too_old(&version)),
            version,
            encoding: row.get(2),
            is_standby: row.get(3),
            is_read_only: row.get(4),
            synchronous_commit: row.get(5),
            has_synchronous_standby: row.get(6),
            fsync: row.get(7),
            autovacuum: row.get(8),
            connections: row.get(9),
            max_connections: row.get(10),
            clock: (SystemTime::UNIX_EPOCH + micros(row.get(11)), ours),
        })
    }

    /// Returns the state of the tables.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn tables(&self) -> Result<Tables, Cause> {
        let topic = &self.access.topic.name;
        let found = self
            .ask(&format!(
                "select c.oid is not null, has_database_privilege(current_database(), 'create'), \
                 coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), false) \
                 from (select '{topic}' as name) t left join pg_namespace n on n.nspname = t.name \
                 left join pg_class c on c.relnamespace = n.oid and c.relname = 'topic'"
            ))
            .await?;
        match (found.get(0), found.get(1), found.get(2)) {
            (false, may_make, _) => Ok(Tables::Missing(may_make)),
            (true, _, false) => Ok(Tables::Hidden),
            (true, _, true) => {
                let row = self.ask(&format!("select version from {topic}.topic")).await?;
                Ok(Tables::Version(row.get(0)))
            }
        }
    }

    /// Returns the rights that this user lacks, each in the words of a `grant`.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn missing_rights(&self) -> Result<Vec<String>, Cause> {
        let topic = &self.access.topic.name;
        let columns: Vec<_> = row::written().collect();
        let (list, names) = (columns.join(", "), columns.join("', '"));
        let rights = format!(
            "select r.name from pg_namespace n \
             left join pg_class e on e.relnamespace = n.oid and e.relname = 'events' \
             left join pg_class t on t.relnamespace = n.oid and t.relname = 'topic' \
             left join pg_proc p on p.pronamespace = n.oid and p.proname = 'tick', \
             lateral (values ('usage on schema {topic}', has_schema_privilege(n.oid, 'usage')), \
             ('select on {topic}.events', has_table_privilege(e.oid, 'select')), \
             ('delete on {topic}.events', has_table_privilege(e.oid, 'delete')), \
             ('insert ({list}) on {topic}.events', (select bool_and(has_column_privilege(e.oid, c, 'insert')) \
             from unnest(array['{names}']) c)), \
             ('select on {topic}.topic', has_table_privilege(t.oid, 'select')), \
             ('update (trimmed_to) on {topic}.topic', has_column_privilege(t.oid, 'trimmed_to', 'update')), \
             ('execute on function {topic}.tick()', has_function_privilege(p.oid, 'execute')) \
             ) r (name, is_granted) where n.nspname = '{topic}' and not coalesce(r.is_granted, false)"
        );
        let rows = self.within(self.session.client.query_typed(&rights, &[])).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Returns the session that holds the topic's lock for longer than a publisher does; `None`: no
    /// session does.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn holder(&self) -> Result<Option<Holder>, Cause> {
        let topic = &self.access.topic.name;
        let holder = format!(
            "select l.pid, coalesce(a.usename::text, 'unknown'), l.virtualtransaction from pg_locks l \
             left join pg_stat_activity a using (pid), \
             (select hashtextextended('pubsub-relay topic {topic}', 0) as key) k \
             where l.locktype = 'advisory' and l.granted and l.objsubid = 1 \
             and l.database = (select oid from pg_database where datname = current_database()) \
             and l.classid::bigint = (k.key >> 32) & 4294967295 and l.objid::bigint = k.key & 4294967295"
        );
        let look = async || {
            let row = self.within(self.session.client.query_typed_opt(&holder, &[])).await?;
            Ok::<_, Cause>(row.map(|row| Holder {
                pid: row.get(0),
                user: row.get(1),
                transaction: row.get(2),
            }))
        };
        let Some(first) = look().await? else { return Ok(None) };
        sleep(LOCK_HELD).await;
        Ok(look().await?.filter(|second| *second == first))
    }

    /// Publishes this event, waits for its note and reads it.
    pub async fn trial(&self, event: &Event) -> Trial {
        let topic = &self.access.topic.name;
        let listen = format!("listen {topic}_events");
        // Without it there is no note, which is what counts.
        self.within(self.session.client.batch_execute(&listen)).await.ok();
        let published = publisher::start(self.access.clone()).publish(event).await;
        if published.is_err() {
            return Trial { published, is_read: None, has_note: false };
        }
        let has_note = timeout(NOTE_TIMEOUT, self.session.notes.notified()).await.is_ok();
        let read = format!("select exists (select from {topic}.events where source = $1 and id = $2)");
        let (source, id) = (&*event.source, &*event.id);
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&source, Type::TEXT), (&id, Type::TEXT)];
        let read = self.session.client.query_typed_one(&read, &parameters);
        let is_read = Some(self.within(read).await.map(|row| row.get(0)));
        Trial { published, is_read, has_note }
    }

    /// Returns the state of the log. `own` is the source of the doctor's own heartbeats.
    ///
    /// # Errors
    /// If the server does not answer, or the user may not read.
    pub async fn log(&self, own: &str) -> Result<LogFacts, Cause> {
        let topic = &self.access.topic.name;
        let log = format!(
            "select n.now - (select min(position) from {topic}.events), \
             (select max(position) from {topic}.events) - n.now, \
             n.now - nullif((select trimmed_to from {topic}.topic), 0), \
             exists (select from {topic}.events where position > n.now - $1 and type = $2 and source <> $3) \
             from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now) n"
        );
        let lately = i64::try_from(PODS_RUN.as_micros()).unwrap_or(i64::MAX);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&lately, Type::INT8), (&HEARTBEAT, Type::TEXT), (&own, Type::TEXT)];
        let row = self.within(self.session.client.query_typed_one(&log, &parameters)).await?;
        Ok(LogFacts {
            oldest: row.get::<_, Option<i64>>(0).map(micros),
            ahead: micros(row.get::<_, Option<i64>>(1).unwrap_or(0)),
            trimmed: row.get::<_, Option<i64>>(2).map(micros),
            extra_retention: EXTRA_RETENTION,
            pods_run: row.get(3),
        })
    }

    async fn ask(&self, question: &str) -> Result<tokio_postgres::Row, Cause> {
        self.within(self.session.client.query_typed_one(question, &[])).await
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Cause> {
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| Cause::of(&error)),
            Err(_) => Err(Cause::silent("check")),
        }
    }
}

/// Returns a time in microseconds; zero if it is negative.
fn micros(time: i64) -> Duration {
    Duration::from_micros(u64::try_from(time).unwrap_or(0))
}
