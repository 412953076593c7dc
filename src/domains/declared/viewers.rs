//! Viewers of a declared domain: from a token to a user with interests.
//!
//! A viewer is its claims, or a row of a table. It must never block: rows are indexed at the start.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    cells,
    directory::{Directory, cell, is_user},
    expansion::{Excess, Keys},
    interest::{Interest, Rows, ViewerTable},
    key_rule::EVERYONE,
    rules::Rules,
    subscription_rule::SubscriptionRule,
    template::{Root, Template},
    viewer_paths,
};
use crate::{
    audience::{Interests, Viewer},
    domain::{Claims, Found, Identity},
};

/// Most keys that a viewer listens to. A viewer with more is refused.
pub const MAX_INTERESTS: usize = 1_000;

/// Why a token gives no viewer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// The token names no user.
    #[error("the token names no user")]
    Unknown,
    /// The user listens to more than [`MAX_INTERESTS`] keys.
    #[error("`{0}` gives more than {MAX_INTERESTS} keys together with the other interests")]
    TooManyInterests(Arc<str>),
    /// A key of the user is longer than [`super::expansion::MAX_KEY_BYTES`].
    #[error("`{0}` gives a key that is too long")]
    KeyTooLong(Arc<str>),
}

/// Viewers of a file and its directory.
#[derive(Debug)]
pub struct Viewers {
    rules: Arc<Rules>,
    directory: Directory,
    users: Option<Users>,
    /// Whether a subscription is for every viewer, so that each viewer needs a key of its own.
    has_everyone: bool,
    /// For each interest with conditions: rows by the texts of the first condition's column.
    by_condition: Vec<HashMap<String, Vec<usize>>>,
}

/// Rows of the table of viewers, by what finds them.
#[derive(Debug)]
struct Users {
    table: ViewerTable,
    by_id: HashMap<String, usize>,
    by_token: HashMap<String, usize>,
    by_email: HashMap<String, usize>,
}

impl Users {
    fn new(table: ViewerTable, directory: &Directory) -> Self {
        let rows = directory.rows(&table.table);
        let index = |column: &str| {
            let cells = rows.iter().enumerate().filter_map(|(place, row)| Some((cell(row, column)?, place)));
            cells.collect::<HashMap<_, _>>()
        };
        let by_id = index(&table.id);
        let by_token = table.token.as_deref().map(index).unwrap_or_default();
        let by_email = table.email.as_deref().map(index).unwrap_or_default();
        let by_email = by_email.into_iter().map(|(email, place)| (email.to_lowercase(), place)).collect();
        Self { table, by_id, by_token, by_email }
    }

    /// Returns the row that claims name: by `sub`, else by a verified e-mail.
    fn find(&self, claims: &Map<String, Value>) -> Option<usize> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let by_id = text("sub").and_then(|sub| self.by_id.get(sub));
        let by_email = || self.by_email.get(&text("email")?.to_lowercase()).filter(|_| is_verified(claims));
        by_id.or_else(by_email).copied()
    }
}

impl Viewers {
    /// Creates the viewers of these rules over the tables of the directory.
    #[must_use]
    pub fn new(rules: Arc<Rules>, directory: Directory) -> Self {
        let users = rules.viewer.clone().map(|table| Users::new(table, &directory));
        let by_condition = rules.interests.iter().map(|interest| index(interest, &directory)).collect();
        let has_everyone = rules.subscriptions.iter().any(|field| field.audience.is_everyone);
        Self { rules, directory, users, has_everyone, by_condition }
    }

    /// Returns the first few demo tokens of the table of viewers, in alphabetical order.
    #[must_use]
    pub fn demo_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.users.iter().flat_map(|users| users.by_token.keys().cloned()).collect();
        names.sort();
        names.truncate(4);
        names
    }

    /// Returns the user with this id, e-mail address or demo token, with the keys of all its
    /// subscriptions without arguments. A user that is refused listens to nothing.
    #[must_use]
    pub fn find(&self, name: &str) -> Found {
        let Some(users) = &self.users else { return Found::NoTable };
        let email = || users.by_email.get(&name.to_lowercase());
        let place = users.by_id.get(name).or_else(|| users.by_token.get(name)).or_else(email);
        let Some((id, _)) = place.and_then(|place| self.row(users, *place)) else { return Found::Unknown };
        let Ok(viewer) = self.viewer(Identity::Claims(&Claims::of_subject(&id))) else {
            return Found::User(Viewer::new(id, Interests::default()));
        };
        let own = viewer.interests.keys();
        let of_field = |field: &SubscriptionRule| cells::without_arguments(&field.filters, own);
        let all = self.rules.subscriptions.iter().flat_map(of_field).chain(own.iter().cloned());
        Found::User(Viewer::new(id, Interests::new(all)))
    }

    /// Returns the viewer of a checked token.
    ///
    /// # Errors
    /// [`Refused`] tells why there is none.
    pub fn viewer(&self, identity: Identity<'_>) -> Result<Viewer, Refused> {
        let (user, document) = self.document(identity).ok_or(Refused::Unknown)?;
        if !is_user(&user) {
            return Err(Refused::Unknown);
        }
        let mut keys = Keys::new(MAX_INTERESTS);
        for (interest, by_condition) in self.rules.interests.iter().zip(&self.by_condition) {
            self.expand(interest, by_condition, &document, &mut keys).map_err(|excess| {
                let template = interest.key.template.text().clone();
                match excess {
                    Excess::Keys => Refused::TooManyInterests(template),
                    Excess::Bytes => Refused::KeyTooLong(template),
                }
            })?;
        }
        let everyone = self.has_everyone.then(|| EVERYONE.into());
        let interests = Interests::new(keys.into_keys().chain(everyone));
        Ok(Viewer::new(user, interests).with_details(viewer_paths::kept(&self.rules.viewer_paths, &document)))
    }

    /// Returns the id of the user, and the document that templates see.
    fn document(&self, identity: Identity<'_>) -> Option<(String, Value)> {
        let claims = match identity {
            Identity::Demo(token) => {
                let users = self.users.as_ref().filter(|users| users.table.token.is_some());
                if let Some(users) = users {
                    return self.row(users, *users.by_token.get(token)?);
                }
                demo_claims(token)?
            }
            Identity::Claims(claims) => {
                claims.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
            }
        };
        match &self.users {
            Some(users) => self.row(users, users.find(&claims)?),
            None => of_claims(claims),
        }
    }

    fn row(&self, users: &Users, place: usize) -> Option<(String, Value)> {
        let row = self.directory.rows(&users.table.table).get(place)?;
        let id = cell(row, &users.table.id)?;
        let mut row = row.clone();
        row.as_object_mut()?.insert("id".to_owned(), id.clone().into());
        Some((id, row))
    }

    /// Adds the keys of one interest.
    fn expand(
        &self,
        interest: &Interest,
        by_condition: &HashMap<String, Vec<usize>>,
        viewer: &Value,
        keys: &mut Keys,
    ) -> Result<(), Excess> {
        let template = &interest.key.template;
        let of_viewer = |root| matches!(root, Root::Document | Root::Viewer).then_some(viewer);
        let Some(Rows { table, conditions }) = &interest.rows else {
            return template.expand(of_viewer, keys);
        };
        let rows = self.directory.rows(table);
        let wanted: Vec<Vec<String>> =
            conditions.iter().map(|(_, wanted)| texts(wanted, viewer)).collect::<Result<_, _>>()?;
        let candidates: Vec<usize> = match wanted.first() {
            Some(first) => {
                let mut places: Vec<_> =
                    first.iter().filter_map(|text| by_condition.get(text)).flatten().copied().collect();
                places.sort_unstable();
                places.dedup();
                places
            }
            None => (0..rows.len()).collect(),
        };
        for row in candidates.into_iter().filter_map(|place| rows.get(place)) {
            let holds = |((column, _), wanted): (&(Box<str>, Template), &Vec<String>)| {
                column_texts(row, column).iter().any(|text| wanted.contains(text))
            };
            if conditions.iter().zip(&wanted).all(holds) {
                let root = |root| match root {
                    Root::Document => Some(row),
                    Root::Viewer => Some(viewer),
                    _ => None,
                };
                template.expand(root, keys)?;
            }
        }
        Ok(())
    }
}

/// Returns the rows of an interest by the texts of its first condition's column.
fn index(interest: &Interest, directory: &Directory) -> HashMap<String, Vec<usize>> {
    let mut index: HashMap<String, Vec<usize>> = HashMap::new();
    let Some(Rows { table, conditions }) = &interest.rows else { return index };
    let Some((column, _)) = conditions.first() else { return index };
    for (place, row) in directory.rows(table).iter().enumerate() {
        for text in column_texts(row, column) {
            index.entry(text).or_default().push(place);
        }
    }
    index
}

/// Returns the texts of a column, which may be a list.
fn column_texts(row: &Value, column: &str) -> Vec<String> {
    match row.get(column) {
        Some(Value::Array(items)) => items.iter().filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn text(value: &Value) -> Option<String> {
    use super::expansion::Document as _;
    value.text().map(std::borrow::Cow::into_owned)
}

/// Returns the texts that a condition wants.
fn texts(wanted: &Template, viewer: &Value) -> Result<Vec<String>, Excess> {
    let mut texts = Keys::new(MAX_INTERESTS);
    wanted.texts(|root| matches!(root, Root::Document | Root::Viewer).then_some(viewer), &mut texts)?;
    Ok(texts.into_keys().map(|text| text.to_string()).collect())
}

/// Returns the claims of a demo token: the token is the claims as JSON, or else `sub`.
fn demo_claims(token: &str) -> Option<Map<String, Value>> {
    if token.starts_with('{') {
        return serde_json::from_str(token).ok();
    }
    Some(Map::from_iter([("sub".to_owned(), token.into())]))
}

/// Returns the user of claims. Without a verified e-mail, the document has none.
fn of_claims(mut claims: Map<String, Value>) -> Option<(String, Value)> {
    let user = claims.get("sub")?.as_str()?.to_owned();
    if !is_verified(&claims) {
        claims.remove("email");
    }
    claims.insert("id".to_owned(), user.clone().into());
    Some((user, Value::Object(claims)))
}

/// Returns whether the issuer verified the e-mail: `email_verified` is true, as a boolean or text.
fn is_verified(claims: &Map<String, Value>) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

#[cfg(test)]
mod tests;
