//! What a replay adds to results: the mark of a replayed one, and the gap notice, a result without
//! data which says that events are missing.

use std::sync::Arc;

use async_graphql::{Name, Response, Value};

use crate::{
    graphql::error::{Code, Error},
    hub::Relayed,
};

/// Name of the extension that marks the result of a replay.
pub(super) const REPLAYED: &str = "replayed";

/// Returns the JSON of a result that has more than `limit` bytes: its error, and where it stands.
pub(super) fn too_large(relayed: &Relayed, limit: usize, is_replayed: bool) -> Arc<str> {
    let text = format!("the result has more than {limit} bytes; select less");
    let error = Error::new(Code::ResultTooLarge, text).response();
    let mut result = error
        .extension("eventId", Value::from(&*relayed.position.event))
        .extension("cursor", Value::from(&*relayed.cursor));
    if is_replayed {
        result = result.extension(REPLAYED, Value::from(true));
    }
    serde_json::to_string(&result).expect("texts have a JSON form").into()
}

/// Returns the JSON of the notice. `response_key` is the name of the root field in results.
pub(super) fn gap(response_key: &str, reason: &str, cursor: &str) -> Arc<str> {
    let data = Value::Object([(Name::new(response_key), Value::Null)].into_iter().collect());
    let gap = Value::Object([(Name::new("reason"), Value::from(reason))].into_iter().collect());
    let notice = Response::new(data).extension("gap", gap).extension("cursor", Value::from(cursor));
    serde_json::to_string(&notice).expect("names and texts have a JSON form").into()
}
