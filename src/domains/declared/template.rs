//! Key templates: texts such as `location:{shareLocationIds}`, with paths in braces.
//!
//! Audiences and interests are such texts. A template must never become an expression language.

use std::{fmt, sync::Arc};

use thiserror::Error;

/// Longest template, in bytes. A longer one is refused.
pub const MAX_TEMPLATE_BYTES: usize = 1_024;

/// Characters that end a segment of a key. A value never has one of them unescaped.
pub const SEPARATORS: [char; 3] = ['/', ':', '|'];

/// Text with placeholders. `S` is a step of a path: a name, or a field's number once the type of
/// the document is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<S = Box<str>> {
    text: Arc<str>,
    pieces: Box<[Piece<S>]>,
}

/// Part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<S = Box<str>> {
    /// Literal text.
    Text(Box<str>),
    /// Path in braces.
    Placeholder(Placeholder<S>),
}

/// Path to values in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder<S = Box<str>> {
    /// Document that the path starts at.
    pub root: Root,
    /// Whole path as one step. Where the document has it, it comes before `steps`, since claims
    /// may have dots in their names.
    pub exact: Option<S>,
    /// Steps through objects. Lists between them need no step.
    pub steps: Box<[S]>,
}

/// Document that a path starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Document that the directive sees: payload, row, claims or arguments.
    Document,
    /// `$author`: the author of the event.
    Author,
    /// `$id`: the id of the event.
    Id,
    /// `$time`: the time of the event.
    Time,
    /// `$viewer.`: claims or row of the viewer.
    Viewer,
    /// `$uuid`: a new UUIDv7.
    Uuid,
    /// `$data`: the data of the event that a mutation published.
    Data,
}

/// Why a text is no template.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// The text is empty.
    #[error("the template is empty; write a text such as \"user:{{sub}}\"")]
    Empty,
    /// The text exceeds [`MAX_TEMPLATE_BYTES`].
    #[error("the template has {0} bytes; at most {MAX_TEMPLATE_BYTES} are allowed")]
    TooLong(usize),
    /// A brace has no partner.
    #[error("`{0}` has a brace without its partner; write each path as {{path}}")]
    Unbalanced(Box<str>),
    /// A path is empty, or has an empty step.
    #[error("`{0}` has an empty path; put names between the braces, joined by dots")]
    EmptyPath(Box<str>),
    /// A path starts with a `$` name that the engine does not know.
    #[error("there is no `{0}`; the names are $author, $id, $time, $viewer.NAME, $uuid and $data")]
    UnknownName(Box<str>),
    /// A placeholder does not fill its segment, so two different values could give the same key.
    #[error("`{{{0}}}` must fill a whole segment; put `/`, `:` or `|` between it and its neighbours")]
    NoSegment(Box<str>),
    /// The literal text of a key has a `%`, which marks escaped characters in values.
    #[error("`%` is kept for escaped values; leave it out of the key's own text")]
    Percent,
}

impl Template {
    /// Parses a template of any text: of an answer, or of a condition.
    ///
    /// # Errors
    /// The text is too long, or its braces or paths are wrong.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        let unbalanced = || TemplateError::Unbalanced(text.into());
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(open) = rest.find(['{', '}']) {
            let (before, inside) = rest.split_at(open);
            let inside = inside.strip_prefix('{').ok_or_else(unbalanced)?;
            let (path, after) = inside.split_once('}').ok_or_else(unbalanced)?;
            if path.contains('{') {
                return Err(unbalanced());
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Placeholder(Placeholder::parse(path)?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { text: text.into(), pieces: pieces.into() })
    }

    /// Parses a template of keys. Each placeholder must fill a segment, so that different values
    /// never give the same key.
    ///
    /// # Errors
    /// As [`Self::parse`]; also if the text is empty, has a `%`, or a placeholder shares its
    /// segment.
    pub fn parse_key(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse(text)?;
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut is_edge = true;
        for (at, piece) in template.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) if text.contains('%') => return Err(TemplateError::Percent),
                Piece::Text(text) => is_edge = text.ends_with(SEPARATORS),
                Piece::Placeholder(placeholder) => {
                    let is_before_edge = match template.pieces.get(at + 1) {
                        None => true,
                        Some(Piece::Text(text)) => text.starts_with(SEPARATORS),
                        Some(Piece::Placeholder(_)) => false,
                    };
                    if !is_edge || !is_before_edge {
                        return Err(TemplateError::NoSegment(placeholder.to_string().into()));
                    }
                    is_edge = false;
                }
            }
        }
        Ok(template)
    }

    /// Returns whether a key of this template can equal a key of the other one.
    #[must_use]
    pub fn may_equal(&self, other: &Self) -> bool {
        let (ours, others) = (self.segments(), other.segments());
        ours.len() == others.len()
            && ours.iter().zip(&others).all(|pair| match pair {
                (Segment::Any, Segment::Any) => true,
                (Segment::Any, Segment::Text(text)) | (Segment::Text(text), Segment::Any) => {
                    !text.is_empty() && !text.starts_with(SEPARATORS)
                }
                (Segment::Text(ours), Segment::Text(other)) => ours == other,
            })
    }

    /// Returns the texts and separators of the template, with `Any` for a placeholder.
    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Placeholder(_) => segments.push(Segment::Any),
                Piece::Text(text) => {
                    let parts = text.split_inclusive(SEPARATORS).flat_map(|part| {
                        let at = part.rfind(SEPARATORS).unwrap_or(part.len());
                        let (text, separator) = part.split_at(at);
                        [text, separator]
                    });
                    segments.extend(parts.filter(|part| !part.is_empty()).map(Segment::Text));
                }
            }
        }
        segments
    }
}

enum Segment<'a> {
    Text(&'a str),
    Any,
}

impl<S> Template<S> {
    /// Returns the text that was parsed.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the parts in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece<S>] {
        &self.pieces
    }

    /// Returns the placeholders in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder<S>> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(placeholder) => Some(placeholder),
            Piece::Text(_) => None,
        })
    }

    /// Returns the placeholder, if the template is nothing else.
    #[must_use]
    pub fn only_placeholder(&self) -> Option<&Placeholder<S>> {
        match &*self.pieces {
            [Piece::Placeholder(placeholder)] => Some(placeholder),
            _ => None,
        }
    }

    /// Returns the same template with other steps; `None` if a placeholder has no counterpart.
    pub fn try_map<T>(
        &self,
        mut other: impl FnMut(&Placeholder<S>) -> Option<Placeholder<T>>,
    ) -> Option<Template<T>> {
        let pieces = self.pieces.iter().map(|piece| {
            Some(match piece {
                Piece::Text(text) => Piece::Text(text.clone()),
                Piece::Placeholder(placeholder) => Piece::Placeholder(other(placeholder)?),
            })
        });
        Some(Template { text: self.text.clone(), pieces: pieces.collect::<Option<_>>()? })
    }
}

impl Placeholder {
    fn parse(path: &str) -> Result<Self, TemplateError> {
        let unknown = || TemplateError::UnknownName(path.into());
        let (root, path) = match path.strip_prefix('$').map(|name| name.split_once('.').unwrap_or((name, "")))
        {
            None => (Root::Document, path),
            Some(("author", "")) => (Root::Author, ""),
            Some(("id", "")) => (Root::Id, ""),
            Some(("time", "")) => (Root::Time, ""),
            Some(("uuid", "")) => (Root::Uuid, ""),
            Some(("data", path)) => (Root::Data, path),
            Some(("viewer", path)) if !path.is_empty() => (Root::Viewer, path),
            Some(_) => return Err(unknown()),
        };
        let steps: Box<[Box<str>]> = path.split('.').map(Into::into).collect();
        if path.is_empty() && root != Root::Document {
            return Ok(Self { root, exact: None, steps: Box::default() });
        }
        if steps.iter().any(|step| step.is_empty()) {
            return Err(TemplateError::EmptyPath(path.into()));
        }
        Ok(Self { root, exact: (steps.len() > 1).then(|| path.into()), steps })
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.root {
            Root::Document => "",
            Root::Author => "$author",
            Root::Id => "$id",
            Root::Time => "$time",
            Root::Viewer => "$viewer.",
            Root::Uuid => "$uuid",
            Root::Data if self.steps.is_empty() => "$data",
            Root::Data => "$data.",
        })?;
        f.write_str(&self.steps.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Template {
        Template::parse_key(text).unwrap()
    }

    #[test]
    fn malformed_templates_name_their_mistake() {
        for (text, part) in [
            ("", "is empty"),
            ("user:{sub", "brace without its partner"),
            ("user:sub}", "brace without its partner"),
            ("user:{su{b}", "brace without its partner"),
            ("user:{}", "empty path"),
            ("user:{a..b}", "empty path"),
            ("user:{$viewer}", "there is no `$viewer`"),
            ("user:{$maker}", "there is no `$maker`"),
            ("user:{$id.x}", "there is no `$id.x`"),
            ("user{sub}", "`{sub}` must fill a whole segment"),
            ("user:{sub}x", "`{sub}` must fill a whole segment"),
            ("org:{org}-{sub}", "`{org}` must fill a whole segment"),
            ("{org}{$viewer.sub}", "`{org}` must fill a whole segment"),
            ("50%:{sub}", "`%` is kept"),
            (&"x".repeat(1_025), "1025 bytes"),
        ] {
            let error = Template::parse_key(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn other_texts_need_no_segments() {
        let template = Template::parse("Hello {name}, 50%").unwrap();
        assert_eq!(template.placeholders().map(ToString::to_string).collect::<Vec<_>>(), ["name"]);
        assert!(template.only_placeholder().is_none());
        let only = Template::parse("{$data}").unwrap();
        assert_eq!(only.only_placeholder().unwrap().root, Root::Data);
    }

    #[test]
    fn unequal_templates_are_found() {
        for (ours, other, may) in [
            ("user:{sub}", "user:{customerId}", true),
            ("user:{sub}", "users:{customerId}", false),
            ("role:{roles}", "role:support", true),
            ("role:{roles}", "role:", false),
            ("role:{roles}", "role:a/b", false),
            ("tenant:{o}/user:{s}", "tenant:{t}/team:{m}", false),
            ("tenant:{o}/user:{s}", "tenant:{t}/user:{m}", true),
            ("tenant:{o}/user:{s}", "tenant:{t}", false),
            ("{kind}:{id}", "user:{id}", true),
            ("all", "all", true),
        ] {
            assert_eq!(key(ours).may_equal(&key(other)), may, "{ours} {other}");
            assert_eq!(key(other).may_equal(&key(ours)), may, "{other} {ours}");
        }
    }
}
