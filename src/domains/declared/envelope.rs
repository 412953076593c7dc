//! `@envelope`: the parts of a message without CloudEvents that stand for its type, author, id and
//! source.
//!
//! `{name}` is an attribute of the message, and `{$data.name}` a field of its data. The data may be
//! what a user wrote, so a missing attribute must never be searched there.

use std::{borrow::Cow, fmt};

use async_graphql::{Pos, parser::types::ConstDirective};

use super::{
    arguments,
    event_types::EventTypes,
    json::Json,
    payload,
    problem::Problems,
    reader::MAX_DATA_BYTES,
    sdl::File,
    template::{Piece, Placeholder, Root, Template},
};
use crate::event::{
    CONTROL, Foreign, PODS,
    foreign::{Envelope, Unmapped},
};

/// Source of the events of a file that names none.
pub const SOURCE: &str = "/envelope";

/// Envelope of messages without CloudEvents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeRule {
    kind: Text,
    source: Text,
    id: Option<Place>,
    author: Option<Place>,
    /// Whether a place is in the data, which is parsed only then.
    reads_data: bool,
}

/// Text with places of a message in it.
type Text = Box<[Part]>;

/// Part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Place(Place),
}

/// Place of a value in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Attribute of this name.
    Attribute(Box<str>),
    /// Field of the data behind these steps.
    Field(Box<[Box<str>]>),
}

/// Reads `@envelope`. `None` if there is none, or a wrong one, which is reported.
pub fn read(file: &File, events: &EventTypes, problems: &mut Problems) -> Option<EnvelopeRule> {
    let directive = arguments::find(&file.schema, "envelope")?;
    let before = problems.len();
    let kind = text(directive, "type", problems);
    let source = text(directive, "source", problems).or_else(|| Some([Part::Text(SOURCE.into())].into()));
    let (id, author) = (place(directive, "id", problems), place(directive, "author", problems));
    if let Some(kind) = kind.as_deref().filter(|_| problems.len() == before) {
        check_type(kind, arguments::place_of(directive, "type"), events, problems);
    }
    if begin(source.as_deref()?).starts_with(PODS) {
        let text = format!("only pods may be a source that begins with `{PODS}`; name another");
        problems.add(arguments::place_of(directive, "source"), text);
    }
    let (kind, source) = (kind?, source?);
    let texts = kind.iter().chain(&source).filter_map(Part::place);
    let reads_data = texts.chain(&id).chain(&author).any(|place| matches!(place, Place::Field(_)));
    (problems.len() == before).then_some(EnvelopeRule { kind, source, id, author, reads_data })
}

/// Reads an argument that is a text with places in it. A wrong one is reported.
fn text(directive: &ConstDirective, name: &str, problems: &mut Problems) -> Option<Text> {
    let (at, text) = (arguments::place_of(directive, name), arguments::text(directive, name)?);
    if text.is_empty() {
        problems.add(at, format!("`{name}` is empty; write a text such as \"{{eventType}}\""));
        return None;
    }
    let template = template(text, at, problems)?;
    let parts = template.pieces().iter().map(|piece| match piece {
        Piece::Text(text) => Some(Part::Text(text.clone())),
        Piece::Placeholder(placeholder) => Place::read(placeholder, at, problems).map(Part::Place),
    });
    parts.collect::<Vec<_>>().into_iter().collect()
}

/// Reads an argument that is one place. A wrong one is reported.
fn place(directive: &ConstDirective, name: &str, problems: &mut Problems) -> Option<Place> {
    let (at, text) = (arguments::place_of(directive, name), arguments::text(directive, name)?);
    let template = template(text, at, problems)?;
    let Some(placeholder) = template.only_placeholder() else {
        // Two values in one text could be those of another event, or of another user.
        let text = format!("`{name}` must be one path such as \"{{messageId}}\" or \"{{$data.id}}\"");
        problems.add(at, text);
        return None;
    };
    Place::read(placeholder, at, problems)
}

fn template(text: &str, at: Pos, problems: &mut Problems) -> Option<Template> {
    Template::parse(text).map_err(|error| problems.add(at, error.to_string())).ok()
}

/// Reports a type that no event of the file has.
fn check_type(kind: &[Part], at: Pos, events: &EventTypes, problems: &mut Problems) {
    if begin(kind).starts_with(CONTROL) {
        let text = format!("an event type that begins with `{CONTROL}` is of pods only; name another");
        problems.add(at, text);
    } else if !events.iter().any(|(known, _)| may_equal(kind, known)) {
        problems.add(at, "no field or projection reads such an event type; correct it, or add `@event`");
    }
}

/// Returns the text before the first place.
fn begin(parts: &[Part]) -> &str {
    match parts.first() {
        Some(Part::Text(text)) => text,
        _ => "",
    }
}

/// Returns whether some values, of one character at least, make the parts this text.
fn may_equal(parts: &[Part], text: &str) -> bool {
    let (mut rest, mut is_after_place) = (text, false);
    for (at, part) in parts.iter().enumerate() {
        match part {
            Part::Place(_) => {
                let mut characters = rest.chars();
                if characters.next().is_none() {
                    return false;
                }
                (rest, is_after_place) = (characters.as_str(), true);
            }
            Part::Text(text) if is_after_place && at + 1 == parts.len() => return rest.ends_with(&**text),
            Part::Text(text) => {
                let found =
                    if is_after_place { rest.find(&**text) } else { rest.starts_with(&**text).then_some(0) };
                let Some(found) = found else { return false };
                (rest, is_after_place) = (&rest[found + text.len()..], false);
            }
        }
    }
    is_after_place || rest.is_empty()
}

impl Part {
    const fn place(&self) -> Option<&Place> {
        match self {
            Self::Place(place) => Some(place),
            Self::Text(_) => None,
        }
    }
}

impl Place {
    /// Reads a path. One that leads to nothing of a message is reported.
    fn read(placeholder: &Placeholder, at: Pos, problems: &mut Problems) -> Option<Self> {
        match placeholder.root {
            Root::Document => Some(Self::Attribute(placeholder.to_string().into())),
            Root::Data if !placeholder.steps.is_empty() => Some(Self::Field(placeholder.steps.clone())),
            _ => {
                let text = format!(
                    "`{{{placeholder}}}` is not known here; use attributes such as {{eventType}}, or fields \
                     such as {{$data.type}}"
                );
                problems.add(at, text);
                None
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(name) => write!(f, "attribute {name}"),
            Self::Field(steps) => write!(f, "field {} of the data", steps.join(".")),
        }
    }
}

impl EnvelopeRule {
    /// Returns the envelope of a message. It has no author if the message has none.
    ///
    /// # Errors
    /// [`Unmapped`] names the attribute or the field that is missing.
    pub fn envelope(&self, message: &Foreign) -> Result<Envelope, Unmapped> {
        let data = self.reads_data.then(|| match message.data.len() {
            0..=MAX_DATA_BYTES => Json::parse(&message.data),
            _ => Err(format!("more than {MAX_DATA_BYTES} bytes")),
        });
        let reader = Reader { message, data };
        Ok(Envelope {
            kind: reader.text(&self.kind, "type")?,
            source: reader.text(&self.source, "source")?,
            id: self.id.as_ref().map(|place| reader.needed(place, "id").map(Cow::into_owned)).transpose()?,
            author: self.author.as_ref().and_then(|place| reader.value(place)).map(Cow::into_owned),
        })
    }
}

/// Reader of the values of one message.
struct Reader<'a> {
    message: &'a Foreign,
    /// Data, if a rule reads it, or why it is no JSON.
    data: Option<Result<Json<'a>, String>>,
}

impl Reader<'_> {
    /// Returns a text with its values filled in.
    fn text(&self, parts: &[Part], of: &'static str) -> Result<String, Unmapped> {
        let values = parts.iter().map(|part| match part {
            Part::Text(text) => Ok(Cow::Borrowed(&**text)),
            Part::Place(place) => self.needed(place, of),
        });
        values.collect()
    }

    /// Returns the value at a place, which the argument `of` needs.
    fn needed(&self, place: &Place, of: &'static str) -> Result<Cow<'_, str>, Unmapped> {
        self.value(place).ok_or_else(|| {
            let text = match (place, &self.data) {
                (Place::Field(_), Some(Err(why))) => format!("the data (@envelope {of}) is {why}"),
                _ => format!("{place} (@envelope {of}) is missing"),
            };
            Unmapped { reason: of, text }
        })
    }

    /// Returns the value at a place: a text that is not empty, a whole number or a boolean.
    fn value(&self, place: &Place) -> Option<Cow<'_, str>> {
        let value = match place {
            Place::Attribute(name) => self.message.attributes.get(&**name)?.as_str().into(),
            Place::Field(steps) => {
                let data = self.data.as_ref()?.as_ref().ok()?;
                let value = steps.iter().try_fold(data, |value, step| value.get(step))?;
                payload::key_text(value.text)?
            }
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests;
