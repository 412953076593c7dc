//! A row of the topic's table: the attributes of an event as columns.
//!
//! The columns hold what [`cloudevent`] reads and writes, under other names. It must never
//! interpret an event's data.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio_postgres::types::{ToSql, Type};

use crate::{
    broker::{Ack, Received},
    event::{Event, cloudevent},
};

/// Columns of attributes, and the names of these attributes on the wire.
const COLUMNS: [(&str, &str); 7] = [
    ("id", "ce-id"),
    ("source", "ce-source"),
    ("type", "ce-type"),
    ("time", "ce-time"),
    ("author", "ce-author"),
    ("trace", "googclient_traceparent"),
    ("content_type", "content-type"),
];

/// Attribute that no row holds, since a row can be nothing else than an event of this version.
const VERSION: (&str, &str) = ("ce-specversion", "1.0");

/// Most rows of a page.
pub(super) const PAGE_ROWS: usize = 500;

/// Bytes of data after which a page ends. A single event may be larger.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// Events as the columns that they are written to.
pub(super) struct Columns {
    texts: [Vec<Option<String>>; COLUMNS.len()],
    /// Other attributes by their names on the wire, as JSON.
    extensions: Vec<Option<String>>,
    data: Vec<Vec<u8>>,
}

impl Columns {
    pub(super) fn of<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let mut columns = Self { texts: Default::default(), extensions: Vec::new(), data: Vec::new() };
        for event in events {
            let mut attributes = cloudevent::encode(event);
            attributes.remove(VERSION.0);
            for (texts, (_, name)) in columns.texts.iter_mut().zip(COLUMNS) {
                texts.push(attributes.remove(name));
            }
            let others = Some(attributes).filter(|others| !others.is_empty());
            columns.extensions.push(others.and_then(|others| serde_json::to_string(&others).ok()));
            columns.data.push(event.data.to_vec());
        }
        columns
    }

    /// Returns the parameters of [`insert`].
    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let texts = self.texts.iter().chain([&self.extensions]);
        let texts = texts.map(|texts| (texts as &(dyn ToSql + Sync), Type::TEXT_ARRAY));
        texts.chain([(&self.data as &(dyn ToSql + Sync), Type::BYTEA_ARRAY)]).collect()
    }
}

/// Returns the columns that a pod writes.
pub(super) fn written() -> impl Iterator<Item = &'static str> {
    COLUMNS.into_iter().map(|(name, _)| name).chain(["extensions", "data"])
}

/// Returns the statement that writes events in their order.
pub(super) fn insert(topic: &str) -> String {
    let names = COLUMNS.map(|(name, _)| name).join(", ");
    let arrays = (1..=COLUMNS.len() + 2).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
    format!(
        "insert into {topic}.events ({names}, extensions, data) select {names}, extensions::jsonb, data \
         from unnest({arrays}) with ordinality as e ({names}, extensions, data, n) order by n"
    )
}

/// Returns the statement that reads the page of events behind a position, and how far events were
/// deleted. Without events it returns one row with that alone. A page ends at [`PAGE_ROWS`] rows,
/// or with the row that reaches [`PAGE_BYTES`].
pub(super) fn page(topic: &str) -> String {
    let names = COLUMNS.map(|(name, _)| name).join(", ");
    format!(
        "select t.trimmed_to, e.position, {names}, e.extensions, e.data from {topic}.topic t left join lateral ( \
         select * from (select p.*, sum(octet_length(p.data)) over (order by p.position) - octet_length(p.data) \
         as before from (select position, {names}, extensions::text, data from {topic}.events \
         where position > $1 order by position limit {PAGE_ROWS}) p) q where before < {PAGE_BYTES} \
         order by position) e on true"
    )
}

/// Returns up to which position events were deleted, and the position of the row's event.
pub(super) fn positions(row: &tokio_postgres::Row) -> (i64, Option<i64>) {
    (row.get(0), row.get(1))
}

/// Returns the number of bytes of the row's data.
pub(super) fn size(row: &tokio_postgres::Row) -> usize {
    row.get::<_, &[u8]>(COLUMNS.len() + 3).len()
}

/// Returns the message in the row of a page. The position is its time of publishing.
pub(super) fn received(row: &tokio_postgres::Row, position: i64) -> Received {
    let extensions: Option<BTreeMap<String, String>> =
        row.get::<_, Option<&str>>(COLUMNS.len() + 2).and_then(|json| serde_json::from_str(json).ok());
    let attribute = |name: &str| match COLUMNS.iter().position(|(_, wire)| *wire == name) {
        Some(column) => row.get::<_, Option<&str>>(column + 2),
        None if name == VERSION.0 => Some(VERSION.1),
        None => extensions.as_ref()?.get(name).map(String::as_str),
    };
    let data = Bytes::copy_from_slice(row.get(COLUMNS.len() + 3));
    let published = SystemTime::UNIX_EPOCH + Duration::from_micros(position.unsigned_abs());
    Received {
        event: cloudevent::decode(attribute, data, Some(published)),
        message_id: position.to_string(),
        ack: Ack::none(),
    }
}
