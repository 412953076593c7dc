//! [`Document`]: a parsed document, which the schema validates once.

use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
};

use async_graphql::{Name, Value, parser::types::ExecutableDocument};

/// Most bytes that one token of a document takes once it is parsed. A field takes the most, since
/// each list of fields has room for four.
const TOKEN_BYTES: usize = 300;

/// Parsed document.
pub(in crate::graphql) struct Document {
    tree: ExecutableDocument,
    bytes: usize,
    asks_for_schema: bool,
    is_valid: AtomicBool,
}

impl Document {
    /// Creates a document that was parsed from a text of this many tokens.
    pub(in crate::graphql) const fn new(tree: ExecutableDocument, text: &str, tokens: usize) -> Self {
        let bytes = text.len() + TOKEN_BYTES * tokens;
        Self { tree, bytes, asks_for_schema: false, is_valid: AtomicBool::new(false) }
    }

    /// Sets whether the document asks for the schema.
    #[must_use]
    pub(in crate::graphql) const fn asking_for_schema(mut self, asks_for_schema: bool) -> Self {
        self.asks_for_schema = asks_for_schema;
        self
    }

    /// Returns whether the document asks for the schema.
    pub(in crate::graphql) const fn asks_for_schema(&self) -> bool {
        self.asks_for_schema
    }

    /// Returns the most memory that the parsed document takes, in bytes.
    pub(in crate::graphql) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the document.
    pub(in crate::graphql) const fn tree(&self) -> &ExecutableDocument {
        &self.tree
    }

    /// Returns whether the schema has validated the document.
    pub(in crate::graphql) fn is_valid(&self) -> bool {
        self.is_valid.load(Ordering::Relaxed)
    }

    /// Notes that the schema has validated the document.
    pub(in crate::graphql) fn set_valid(&self) {
        self.is_valid.store(true, Ordering::Relaxed);
    }
}

/// Returns the memory that a value takes, in bytes.
pub(in crate::graphql) fn value_bytes(value: &Value) -> usize {
    const OWN: usize = mem::size_of::<Value>();
    // What a map keeps for each entry besides the value: its key, its hash and its place.
    const ENTRY: usize = mem::size_of::<Name>() + 4 * mem::size_of::<usize>();
    match value {
        Value::String(text) => OWN + text.len(),
        Value::Enum(name) => OWN + name.len(),
        // A list that grows has room for up to twice its items.
        Value::List(items) => items.iter().map(|item| OWN + value_bytes(item)).sum::<usize>() + 4 * OWN,
        Value::Object(fields) => {
            let field = |(name, value): (&Name, &Value)| OWN + 2 * ENTRY + name.len() + value_bytes(value);
            fields.iter().map(field).sum::<usize>() + 4 * OWN
        }
        Value::Null | Value::Number(_) | Value::Boolean(_) | Value::Binary(_) => OWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graphql::document::limits;

    #[test]
    fn parsed_size_is_bounded_by_tokens() {
        for document in [
            format!("{{ {} }}", "a ".repeat(990)),
            format!("{{ {} }}", "a{a{a}} ".repeat(140)),
            format!("{{ a(x: [{}]) }}", "1 ".repeat(900)),
            format!("{{ a({}) }}", "x: {y: 1} ".repeat(120)),
            format!("{{ a(x: [{}]) }}", "[1] ".repeat(300)),
            format!("{{ {} }}", "a @b ".repeat(300)),
            format!("{{ {} }}", "...f ".repeat(300)),
            format!("{{ {} }}", "...{a} ".repeat(190)),
            format!("query ({}) {{ a }}", "$x: [I] = 1 ".repeat(110)),
            (0..110).map(|n| format!("fragment f{n} on Q {{ a }} ")).collect::<String>() + "{ a }",
            (0..190).map(|n| format!("query q{n} {{ a }} ")).collect(),
            "{ a } #".to_owned() + &"x".repeat(30_000),
        ] {
            let mut parsed = None;
            let parse = || parsed = limits::parse(&document, true).ok();
            let held = allocation_counter::measure(parse).bytes_current;
            let Some(parsed) = parsed else { panic!("{document:.100}") };
            let bytes = parsed.bytes();
            assert!(held <= bytes as i64, "{held} of {bytes}: {document:.100}");
            assert!(bytes < 300 * 1_001 + document.len(), "{bytes}");
        }
    }

    #[test]
    fn value_size_is_that_of_its_memory() {
        for json in [
            format!("[{}1]", "1,".repeat(8_000)),
            format!("[{}[]]", "[],".repeat(5_000)),
            format!("[{}{{}}]", "{\"a\":1},".repeat(1_500)),
            format!("\"{}\"", "x".repeat(16_000)),
        ] {
            let mut value = Value::Null;
            let read = || value = serde_json::from_str(&json).unwrap();
            let held = allocation_counter::measure(read).bytes_current;
            let bytes = value_bytes(&value);
            assert!(held <= bytes as i64, "{held} of {bytes}: {json:.100}");
        }
    }
}
