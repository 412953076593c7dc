//! Directory: the tables that a file names, read once at the start.
//!
//! Rows of a type with `@table` must fit the type. All that is wrong is reported at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value, value::RawValue};
use thiserror::Error;

use super::{
    payload::{Envelope, Object},
    reader,
    rules::Rules,
    state::Source,
    types::{TypeId, Types},
};

/// Largest directory, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// Longest id of a user, in bytes. Events carry it as their author.
const MAX_ID_BYTES: usize = 256;

/// Most problems that are spelled out. The rest is counted.
const MAX_PROBLEMS: usize = 20;

/// Why there is no directory.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The text exceeds [`MAX_BYTES`].
    #[error("the directory is larger than 16 MiB")]
    TooLarge,
    /// The text is no JSON object of lists.
    #[error("not the JSON of a directory: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Tables or rows are wrong: one text each.
    #[error("the directory is wrong:\n  {}", .0.join("\n  "))]
    Wrong(Vec<String>),
}

/// Tables by name, as far as the rules name them.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    tables: HashMap<Box<str>, Vec<Value>>,
    /// Rows of the types with `@table`, in the order of the file.
    typed: HashMap<TypeId, Vec<Arc<Object>>>,
}

impl Directory {
    /// Parses a JSON object of tables, each a list of rows. Tables and columns that the rules do
    /// not name are ignored.
    ///
    /// # Errors
    /// A table that the rules name is missing, a row does not fit its type, or a key is repeated.
    pub fn parse(json: &str, rules: &Rules) -> Result<Self, DirectoryError> {
        if json.len() > MAX_BYTES {
            return Err(DirectoryError::TooLarge);
        }
        let tables: HashMap<String, &RawValue> = serde_json::from_str(json)?;
        let mut loader = Loader { tables: &tables, problems: Vec::new(), uncounted: 0 };
        let mut directory = Self::default();
        for (id, state) in &rules.states.by_type {
            if let Source::Table(name) = &state.source {
                let rows = loader.typed(name, *id, state.key, &rules.types);
                let values = rows.iter().map(|row| row.to_json(&rules.types));
                directory.tables.insert(name.clone(), values.collect());
                directory.typed.insert(*id, rows);
            }
        }
        if let Some(viewer) = &rules.viewer {
            let rows = loader.viewers(&viewer.table);
            let keep = |text: String| text;
            loader.distinct(&viewer.table, &viewer.id, &rows, keep);
            loader.users(&viewer.table, &viewer.id, &rows);
            if let Some(token) = &viewer.token {
                loader.distinct(&viewer.table, token, &rows, keep);
            }
            if let Some(email) = &viewer.email {
                loader.distinct(&viewer.table, email, &rows, |text| text.to_lowercase());
            }
            directory.tables.entry(viewer.table.clone()).or_insert(rows);
        }
        loader.none(directory)
    }

    /// Returns the rows of a table in the order of the file; none if the rules do not name it.
    #[must_use]
    pub fn rows(&self, table: &str) -> &[Value] {
        self.tables.get(table).map_or(&[], Vec::as_slice)
    }
}

impl Directory {
    /// Takes the rows of the types with `@table`.
    pub fn take_typed(&mut self) -> HashMap<TypeId, Vec<Arc<Object>>> {
        std::mem::take(&mut self.typed)
    }
}

/// Reader of tables that collects problems.
struct Loader<'a> {
    tables: &'a HashMap<String, &'a RawValue>,
    problems: Vec<String>,
    uncounted: usize,
}

impl<'a> Loader<'a> {
    fn add(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.uncounted += 1;
        }
    }

    fn none(mut self, directory: Directory) -> Result<Directory, DirectoryError> {
        self.problems.sort();
        if self.uncounted > 0 {
            self.problems.push(format!("and {} more", self.uncounted));
        }
        if self.problems.is_empty() { Ok(directory) } else { Err(DirectoryError::Wrong(self.problems)) }
    }

    fn table(&mut self, name: &str) -> Vec<&'a RawValue> {
        let Some(table) = self.tables.get(name) else {
            self.add(format!("there is no table `{name}`; add the list `{name}`"));
            return Vec::new();
        };
        serde_json::from_str(table.get()).unwrap_or_else(|_| {
            self.add(format!("`{name}` is no list of rows"));
            Vec::new()
        })
    }

    /// Reads the rows of a type. Their keys must be distinct.
    fn typed(&mut self, name: &str, of: TypeId, key: usize, types: &Types) -> Vec<Arc<Object>> {
        let envelope = Envelope { author: None, id: "".into(), time: None };
        let (mut rows, mut keys) = (Vec::new(), HashSet::new());
        for (place, row) in self.table(name).into_iter().enumerate() {
            match reader::read(types, of, row.get().as_bytes(), &envelope) {
                Ok(object) => {
                    if !keys.insert(format!("{:?}", object.fields.get(key))) {
                        self.add(format!("`{name}`, row {}: its key is given twice", place + 1));
                    }
                    rows.push(Arc::new(object));
                }
                Err(breach) => self.add(format!("`{name}`, row {}: {breach}", place + 1)),
            }
        }
        rows
    }

    /// Reads the rows of viewers, which need no type. A wrong one is null, so that the others keep
    /// their places.
    fn viewers(&mut self, name: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        for (place, row) in self.table(name).into_iter().enumerate() {
            match serde_json::from_str::<Map<String, Value>>(row.get()) {
                Ok(row) => rows.push(Value::Object(row)),
                Err(_) => {
                    rows.push(Value::Null);
                    self.add(format!("`{name}`, row {}: it is no object", place + 1));
                }
            }
        }
        rows
    }

    /// Checks that the values of a column differ, in the form that `of` gives them.
    fn distinct(&mut self, table: &str, column: &str, rows: &[Value], of: impl Fn(String) -> String) {
        let mut seen = HashSet::new();
        for (place, row) in rows.iter().enumerate() {
            if cell(row, column).is_some_and(|text| !seen.insert(of(text))) {
                self.add(format!("`{table}`, row {}: its `{column}` is given twice", place + 1));
            }
        }
    }

    /// Checks that each row has the id of a user in this column.
    fn users(&mut self, table: &str, column: &str, rows: &[Value]) {
        for (place, row) in rows.iter().enumerate().filter(|(_, row)| row.is_object()) {
            let id = cell(row, column);
            if id.is_none() {
                self.add(format!("`{table}`, row {}: it has no `{column}`", place + 1));
            } else if !id.is_some_and(|id| is_user(&id)) {
                let text = format!("at most {MAX_ID_BYTES} bytes without control characters are expected");
                self.add(format!("`{table}`, row {}: `{column}`: {text}", place + 1));
            }
        }
    }
}

/// Returns whether a text may be the id of a user: a bounded one, without control characters.
#[must_use]
pub fn is_user(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// Returns the text of a cell; `None` if it is empty, or neither text nor whole number.
#[must_use]
pub fn cell(row: &Value, column: &str) -> Option<String> {
    match row.get(column)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}
