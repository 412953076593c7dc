//! Checks of the values in `data` and `answer` of `@publish`.
//!
//! A value that can never fit its field is a mistake of the file, not of each mutation.

use async_graphql::{Pos, Value, parser::types::FieldDefinition};

use super::{
    key_rule,
    problem::Problems,
    reader,
    template::{Placeholder, Root, Template},
    types::{Field, Found, Kind, Scalar, TypeId, Types, Wrapping},
};

/// Check of the values of one argument of a directive.
pub struct ValueCheck<'a> {
    /// Place of the argument.
    pub at: Pos,
    /// Field of `Mutation` whose arguments the values may name.
    pub field: &'a FieldDefinition,
    /// Type of the event's data.
    pub payload: TypeId,
    /// Whether this is `answer`, which may name `$data`, and has the names of types throughout.
    pub is_answer: bool,
    /// Types of the file.
    pub types: &'a Types,
}

impl ValueCheck<'_> {
    /// Checks the value of a field of the type `of`.
    pub fn check(&self, value: &Value, wanted: &Field, of: TypeId, problems: &mut Problems) {
        let before = problems.len();
        self.templates(value, problems);
        if problems.len() == before
            && let Err(text) = self.fits(value, wanted, &wanted.wrapping, of)
        {
            let text = format!("`{}` has a value that never fits: {text}; correct it", wanted.name);
            problems.add(self.at, text);
        }
    }

    /// Checks the paths of all texts in a value.
    fn templates(&self, value: &Value, problems: &mut Problems) {
        match value {
            Value::List(items) => items.iter().for_each(|item| self.templates(item, problems)),
            Value::Object(fields) => fields.values().for_each(|item| self.templates(item, problems)),
            Value::String(text) => match Template::parse(text) {
                Ok(template) => {
                    let is_longer = template.only_placeholder().is_none();
                    template.placeholders().for_each(|path| self.placeholder(path, is_longer, problems));
                }
                Err(error) => problems.add(self.at, error.to_string()),
            },
            _ => {}
        }
    }

    fn placeholder(&self, path: &Placeholder, is_longer: bool, problems: &mut Problems) {
        let found = match path.root {
            Root::Viewer | Root::Uuid => return,
            Root::Data if self.is_answer && !(is_longer && path.steps.is_empty()) => self.found(path),
            Root::Document => self.found(path),
            _ => {
                let text = format!("`{{{path}}}` is not known here; use arguments or the viewer");
                return problems.add(self.at, text);
            }
        };
        match found {
            None if path.root == Root::Data => {
                let payload = &self.types.get(self.payload).name;
                problems.add(self.at, format!("there is no `{path}` in `{payload}`; correct the path"));
            }
            None => problems.add(self.at, format!("there is no argument `{path}`; correct the path")),
            Some(found) if is_longer && (found.is_list || !self.types.is_leaf(found.of)) => {
                let text = format!("`{path}` is a list or an object, which no longer text can hold");
                problems.add(self.at, text);
            }
            Some(_) => {}
        }
    }

    /// Returns what a path leads to; `None` if it leads nowhere, or if only a request tells.
    fn found(&self, path: &Placeholder) -> Option<Found> {
        match path.root {
            Root::Data if path.steps.is_empty() => Some(Found::one(self.payload)),
            Root::Data => self.types.find(self.payload, &path.steps),
            Root::Document => key_rule::argument(self.field, &path.steps, self.types),
            Root::Uuid => self.types.id("ID").map(Found::one),
            _ => None,
        }
    }

    /// Checks a value against its type. A value without placeholders is read as event data is.
    fn fits(&self, value: &Value, wanted: &Field, wrapping: &Wrapping, of: TypeId) -> Result<(), String> {
        if !has_placeholder(value) {
            let json = value.clone().into_json().unwrap_or_default().to_string();
            let read = reader::read_value(self.types, of, wanted, wrapping, self.is_answer, &json);
            return read.map(drop).map_err(|breach| breach.text);
        }
        match (value, &wrapping.element) {
            _ if self.types.get(wanted.of).kind == Kind::Scalar(Scalar::Custom) => Ok(()),
            (Value::String(text), _) => {
                let template = Template::parse(text).ok();
                let found = match template.as_ref().and_then(Template::only_placeholder) {
                    Some(path) => self.found(path),
                    None => self.types.id("String").map(Found::one),
                };
                found.map_or(Ok(()), |found| self.types.may_fill(&found, wanted.of, wrapping))
            }
            (Value::List(items), Some(element)) => {
                items.iter().try_for_each(|item| self.fits(item, wanted, element, of))
            }
            (_, Some(_)) => Err("a list is expected".to_owned()),
            (Value::Object(given), None) if self.types.is_object(wanted.of) => {
                let fields = self.types.fields(wanted.of).iter();
                // Objects in `data` have the names of the event, which the reader checks.
                fields.filter(|_| self.is_answer).try_for_each(|inner| match given.get(&*inner.name) {
                    Some(value) => self.fits(value, inner, &inner.wrapping, wanted.of),
                    None if inner.wrapping.is_nullable => Ok(()),
                    None => Err(format!("it lacks `{}`, which may not be null", inner.name)),
                })
            }
            _ => Err(format!("`{}` is expected", self.types.get(wanted.of).name)),
        }
    }
}

/// Returns whether a value depends on the request.
fn has_placeholder(value: &Value) -> bool {
    match value {
        Value::List(items) => items.iter().any(has_placeholder),
        Value::Object(fields) => fields.values().any(has_placeholder),
        Value::String(text) => {
            Template::parse(text).is_ok_and(|template| template.placeholders().next().is_some())
        }
        _ => false,
    }
}

impl Types {
    /// Checks that a value of this kind may become the value of a field.
    ///
    /// # Errors
    /// What the field expects instead.
    pub fn may_fill(&self, found: &Found, wanted: TypeId, wrapping: &Wrapping) -> Result<(), String> {
        let form = |of: TypeId| match &self.get(of).kind {
            Kind::Scalar(Scalar::Custom) => Form::Any,
            Kind::Scalar(Scalar::Id) => Form::Id,
            Kind::Scalar(Scalar::Text) | Kind::Enum(_) => Form::Text,
            Kind::Scalar(Scalar::Int | Scalar::Float) => Form::Number,
            Kind::Scalar(Scalar::Boolean) => Form::Boolean,
            _ => Form::Object,
        };
        let (given, expected) = (form(found.of), form(wanted));
        let is_list = wrapping.element.is_some();
        let fits = match (given, expected) {
            (_, Form::Any) | (Form::Any, _) => return Ok(()),
            (Form::Text | Form::Number, Form::Id) | (Form::Id, Form::Text) => true,
            (given, expected) => given == expected,
        };
        if fits && found.is_list == is_list {
            return Ok(());
        }
        let name = &self.get(wanted).name;
        Err(if is_list { format!("a list of `{name}` is expected") } else { format!("`{name}` is expected") })
    }
}

/// Form of a value in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Any,
    Id,
    Text,
    Number,
    Boolean,
    Object,
}
