//! JSON text as a tree of borrowed parts, parsed once per event.
//!
//! `serde_json` checks the syntax. The tree keeps numbers and texts as they are written, so that no
//! digit is lost. It must never hold a copy of the data.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

/// Most levels of objects and lists. Deeper data is refused.
const MAX_DEPTH: usize = 64;

/// Returns a value as JSON text. It is for texts and [`serde_json::Value`]s, which always have one.
#[must_use]
pub fn written<T: Serialize + ?Sized>(value: &T) -> String {
    // `Display` of a value gives the same text, and takes several times as long.
    serde_json::to_string(value).unwrap_or_default()
}

/// Value of a JSON text.
#[derive(Clone, Debug, PartialEq)]
pub struct Json<'a> {
    /// The value as it is written.
    pub text: &'a str,
    /// What the value is.
    pub kind: Kind<'a>,
}

/// Kind of a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean,
    /// Number.
    Number,
    /// Text in quotes.
    Text,
    /// List.
    List(Vec<Json<'a>>),
    /// Object: names and values, sorted by name. Values of equal names are in the order of the
    /// text.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Parses a JSON text.
    ///
    /// # Errors
    /// What is wrong with the text, without quoting it.
    pub fn parse(data: &'a [u8]) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_slice(data)
            .map_err(|error| format!("not JSON at line {} column {}", error.line(), error.column()))?;
        let mut reader = Reader { rest: raw.get() };
        reader
            .value(MAX_DEPTH)
            .ok_or_else(|| format!("more than {MAX_DEPTH} levels of JSON, or a broken name"))
    }

    /// Returns the value behind a name. Of repeated names the last one counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Kind::Object(fields) = &self.kind else { return None };
        let end = fields.partition_point(|(known, _)| **known <= *name);
        let (known, value) = fields.get(end.checked_sub(1)?)?;
        (known == name).then_some(value)
    }
}

/// Returns the characters of a text in quotes; `None` if an escape names no character.
#[must_use]
pub fn unquote(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(text).ok().map(Cow::Owned) } else { Some(inner.into()) }
}

/// Returns a JSON text without the space between its parts.
#[must_use]
pub fn compact(text: &str) -> Cow<'_, str> {
    let is_space = |character: char| matches!(character, ' ' | '\t' | '\n' | '\r');
    if !text.contains(is_space) {
        return text.into();
    }
    let (mut compact, mut is_text, mut is_escaped) = (String::with_capacity(text.len()), false, false);
    for character in text.chars() {
        if is_text || !is_space(character) {
            compact.push(character);
        }
        match character {
            '"' if !is_escaped => is_text = !is_text,
            _ => {}
        }
        is_escaped = is_text && character == '\\' && !is_escaped;
    }
    compact.into()
}

/// Reader of a text that is known to be JSON.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Reads a value; `None` if it is too deep, or has a name that is no text.
    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        self.space();
        let start = self.rest;
        let kind = match start.as_bytes().first()? {
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.step();
                let mut fields = Vec::new();
                while !self.ends(b'}') {
                    self.space();
                    let name = unquote(self.quoted()?)?;
                    self.space();
                    self.step(); // the colon
                    fields.push((name, self.value(depth)?));
                }
                // Types with many fields must not visit all names for each of them.
                fields.sort_by(|(ours, _), (other, _)| ours.cmp(other));
                Kind::Object(fields)
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.step();
                let mut items = Vec::new();
                while !self.ends(b']') {
                    items.push(self.value(depth)?);
                }
                Kind::List(items)
            }
            b'"' => {
                self.quoted()?;
                Kind::Text
            }
            first => {
                let end = start.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(start.len());
                self.rest = &start[end..];
                match first {
                    b'n' => Kind::Null,
                    b't' | b'f' => Kind::Boolean,
                    _ => Kind::Number,
                }
            }
        };
        Some(Json { text: &start[..start.len() - self.rest.len()], kind })
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Skips one byte, which is a bracket, a comma or a colon.
    fn step(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    /// Skips a comma, or the closing bracket. Returns whether it was the bracket.
    fn ends(&mut self, bracket: u8) -> bool {
        self.space();
        match self.rest.as_bytes().first() {
            Some(b',') => {
                self.step();
                false
            }
            Some(first) if *first == bracket => {
                self.step();
                true
            }
            first => first.is_none(),
        }
    }

    /// Reads a text with its quotes.
    fn quoted(&mut self) -> Option<&'a str> {
        let mut is_escaped = false;
        for (at, byte) in self.rest.bytes().enumerate().skip(1) {
            match byte {
                b'"' if !is_escaped => {
                    let (text, rest) = self.rest.split_at(at + 1);
                    self.rest = rest;
                    return Some(text);
                }
                _ => is_escaped = byte == b'\\' && !is_escaped,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Returns the same value as `serde_json` parses it, each leaf from its own text.
    fn value(json: &Json<'_>) -> Value {
        match &json.kind {
            Kind::List(items) => items.iter().map(value).collect(),
            Kind::Object(fields) => {
                Value::Object(fields.iter().map(|(name, item)| (name.to_string(), value(item))).collect())
            }
            Kind::Text => unquote(json.text).unwrap().into(),
            _ => serde_json::from_str(json.text).unwrap(),
        }
    }

    #[test]
    fn parts_are_kept_as_written() {
        let text =
            r#" { "a" : 1.50 , "b\n": [ 123456789012345678901234567890, "\u00e9" ,true,null ], "a": {} } "#;
        let json = Json::parse(text.as_bytes()).unwrap();
        assert_eq!(json.text, text.trim());
        assert_eq!(json.get("a").unwrap().kind, Kind::Object(Vec::new()), "the last one counts");
        let Kind::List(items) = &json.get("b\n").unwrap().kind else { panic!() };
        let texts: Vec<_> = items.iter().map(|item| item.text).collect();
        assert_eq!(texts, ["123456789012345678901234567890", r#""\u00e9""#, "true", "null"]);
        assert_eq!(json.get("c"), None);
        assert_eq!(items[0].get("a"), None);
    }

    #[test]
    fn bad_texts_are_refused_without_quoting() {
        let refusal = |text: &str| Json::parse(text.as_bytes()).unwrap_err();
        assert_eq!(refusal("{\n \"secret\" 1}"), "not JSON at line 2 column 11");
        assert_eq!(refusal(""), "not JSON at line 1 column 0");
        assert_eq!(refusal("{} {}"), "not JSON at line 1 column 4");
        assert!(refusal(r#"{"\ud800": 1}"#).contains("a broken name"));
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(64).as_bytes()).is_ok());
        assert!(refusal(&nested(65)).starts_with("more than 64 levels"));
        assert!(Json::parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn compact_text_has_no_space_between_parts() {
        assert_eq!(compact("{ \"a b\" :\n[1,\t\"\\\" \\\\\" , 2] }"), "{\"a b\":[1,\"\\\" \\\\\",2]}");
        assert!(matches!(compact("[1,2]"), Cow::Borrowed("[1,2]")));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".{0,4}", inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn tree_equals_serde_json(expected in any_json(), is_pretty in any::<bool>()) {
            let text = if is_pretty { serde_json::to_string_pretty(&expected) } else { serde_json::to_string(&expected) };
            let text = text.unwrap();
            let parsed = Json::parse(text.as_bytes()).unwrap();
            // The text, not the value, is the oracle: serde_json rounds some fractions as it reads.
            let expected: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value(&parsed), expected.clone());
            let compact: Value = serde_json::from_str(&compact(&text)).unwrap();
            prop_assert_eq!(compact, expected);
        }

        #[test]
        fn bytes_never_panic(data in any::<Vec<u8>>(), text in r#"[\[\]{}",:\\u0-9a ]{0,20}"#) {
            let _ = Json::parse(&data);
            let _ = Json::parse(text.as_bytes());
        }
    }
}
