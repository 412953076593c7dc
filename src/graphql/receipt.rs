//! [`Receipt`]: what a mutation has published, for the extensions of its result.
//!
//! A mutation may publish several events. They are of one author, and the topic keeps their order.
//! So the receipt of the last one stands for all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_graphql::Value;

use crate::{cursor::Written, event::Event, lock::lock};

/// Receipt of one request: its last event that the topic has acknowledged.
#[derive(Debug, Default)]
pub struct Receipt(Mutex<Option<Published>>);

#[derive(Debug)]
struct Published {
    event: Arc<str>,
    token: String,
}

impl Receipt {
    /// Records an event that the topic has acknowledged.
    pub(super) fn note(&self, event: &Event, written: &Written, topic: &str) {
        let published = Published { event: event.identity(), token: written.encode(topic) };
        *lock(&self.0) = Some(published);
    }

    /// Returns the extensions of the request's result, with this cursor.
    pub(super) fn extensions(&self, cursor: &str) -> BTreeMap<String, Value> {
        let mut extensions = BTreeMap::from([("cursor".to_owned(), Value::from(cursor))]);
        if let Some(Published { event, token }) = lock(&self.0).take() {
            extensions.insert("eventId".to_owned(), Value::from(&*event));
            extensions.insert("written".to_owned(), Value::from(token));
        }
        extensions
    }
}
