//! The directives of the rule language: their places, arguments and values.
//!
//! A directive with a wrong shape is reported here, once. Readers of its arguments then find
//! nothing, and report nothing more.

use async_graphql::{Positioned, Value, parser::types::ConstDirective};

use super::{foreign::Foreign, problem::Problems};

/// Place of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The schema.
    Schema,
    /// Object type that is no root.
    Type,
    /// Field of an object type that is no root.
    Field,
    /// Field of `Query`.
    Query,
    /// Field of `Mutation`.
    Mutation,
    /// Field of `Subscription`.
    Subscription,
    /// Argument of a field of `Query` or `Subscription`.
    Argument,
    /// Anything else: an enum, an input object, an interface, and what they hold.
    Other,
}

/// Kind of an argument's value.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Texts,
    Flag,
    Whole,
    Number,
    OneOf(&'static [&'static str]),
    Object,
}

/// Shape of a directive.
struct Shape {
    name: &'static str,
    places: &'static [Place],
    is_repeatable: bool,
    /// Name and kind of each argument, and whether it must be given.
    arguments: &'static [(&'static str, Kind, bool)],
}

/// Definitions of the directives, for editors and other tools.
pub const DIRECTIVES: &str = include_str!("directives.graphql");

/// Comparisons of `@filter`.
pub const OPS: [&str; 5] = ["EQUALS", "ABOVE", "AT_LEAST", "BELOW", "AT_MOST"];

const SHAPES: [Shape; 13] = [
    Shape {
        name: "interest",
        places: &[Place::Schema],
        is_repeatable: true,
        arguments: &[("key", Kind::Text, true), ("of", Kind::Text, false), ("where", Kind::Object, false)],
    },
    Shape {
        name: "event",
        places: &[Place::Subscription],
        is_repeatable: true,
        arguments: &[("type", Kind::Text, true), ("as", Kind::Text, false)],
    },
    Shape {
        name: "audience",
        places: &[Place::Subscription, Place::Query, Place::Mutation],
        is_repeatable: false,
        arguments: &[
            ("keys", Kind::Texts, false),
            ("everyone", Kind::Flag, false),
            ("exceptAuthor", Kind::Flag, false),
        ],
    },
    Shape {
        name: "filter",
        places: &[Place::Argument],
        is_repeatable: false,
        arguments: &[("field", Kind::Text, false), ("op", Kind::OneOf(&OPS), false)],
    },
    Shape {
        name: "from",
        places: &[Place::Field],
        is_repeatable: false,
        arguments: &[("path", Kind::Text, true)],
    },
    Shape {
        name: "allow",
        places: &[Place::Query, Place::Mutation, Place::Subscription],
        is_repeatable: true,
        arguments: &[("key", Kind::Text, true)],
    },
    Shape {
        name: "listeners",
        places: &[Place::Query, Place::Subscription],
        is_repeatable: false,
        arguments: &[("key", Kind::Text, true), ("everyone", Kind::Flag, false)],
    },
    Shape {
        name: "publish",
        places: &[Place::Mutation],
        is_repeatable: false,
        arguments: &[
            ("type", Kind::Text, true),
            ("data", Kind::Object, false),
            ("answer", Kind::Object, false),
            ("update", Kind::Flag, false),
        ],
    },
    Shape {
        name: "projection",
        places: &[Place::Type],
        is_repeatable: false,
        arguments: &[("key", Kind::Text, true), ("events", Kind::Texts, true)],
    },
    Shape {
        name: "table",
        places: &[Place::Type],
        is_repeatable: false,
        arguments: &[("name", Kind::Text, true), ("key", Kind::Text, true)],
    },
    Shape {
        name: "constraint",
        places: &[Place::Field],
        is_repeatable: false,
        arguments: &[
            ("minLength", Kind::Whole, false),
            ("maxLength", Kind::Whole, false),
            ("min", Kind::Number, false),
            ("max", Kind::Number, false),
            ("minItems", Kind::Whole, false),
            ("maxItems", Kind::Whole, false),
            ("trim", Kind::Flag, false),
        ],
    },
    Shape {
        name: "viewer",
        places: &[Place::Schema],
        is_repeatable: false,
        arguments: &[
            ("table", Kind::Text, true),
            ("id", Kind::Text, false),
            ("token", Kind::Text, false),
            ("email", Kind::Text, false),
        ],
    },
    Shape {
        name: "envelope",
        places: &[Place::Schema],
        is_repeatable: false,
        arguments: &[
            ("type", Kind::Text, true),
            ("author", Kind::Text, false),
            ("id", Kind::Text, false),
            ("source", Kind::Text, false),
        ],
    },
];

/// Returns whether a directive of this name is part of the rule language.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    SHAPES.iter().any(|shape| shape.name == name)
}

/// Checks directives at one place: their names, places, repeats and arguments.
pub fn check(
    directives: &[Positioned<ConstDirective>],
    place: Place,
    foreign: &Foreign,
    problems: &mut Problems,
) {
    for (at, Positioned { pos, node: directive }) in directives.iter().enumerate() {
        let name = directive.name.node.as_str();
        let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) else {
            if !foreign.has(name) {
                let text = format!("there is no directive `@{name}`; correct it, or define or import it");
                problems.add(*pos, text);
            }
            continue;
        };
        let is_repeat = directives[..at].iter().any(|before| before.node.name.node == name);
        if !shape.places.contains(&place) {
            problems.add(*pos, format!("`@{name}` has no meaning here; it belongs on {}", belongs(shape)));
        } else if is_repeat && !shape.is_repeatable {
            problems.add(*pos, format!("`@{name}` stands twice here; leave one out"));
        } else {
            arguments(directive, shape, problems);
        }
    }
}

fn belongs(shape: &Shape) -> String {
    let names = shape.places.iter().map(|place| match place {
        Place::Schema => "the schema",
        Place::Type => "an object type",
        Place::Field => "a field of an object type",
        Place::Query => "a field of Query",
        Place::Mutation => "a field of Mutation",
        Place::Subscription => "a field of Subscription",
        Place::Argument => "an argument of Query or Subscription",
        Place::Other => "other places",
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn arguments(directive: &ConstDirective, shape: &Shape, problems: &mut Problems) {
    for (at, (name, value)) in directive.arguments.iter().enumerate() {
        let Some((_, kind, _)) = shape.arguments.iter().find(|(known, ..)| *known == name.node.as_str())
        else {
            let known: Vec<_> = shape.arguments.iter().map(|(known, ..)| *known).collect();
            let text =
                format!("`@{}` has no argument `{}`; it has {}", shape.name, name.node, known.join(", "));
            problems.add(name.pos, text);
            continue;
        };
        if directive.arguments[..at].iter().any(|(before, _)| before.node == name.node) {
            problems.add(name.pos, format!("argument `{}` is given twice; leave one out", name.node));
        } else if let Some(expected) = misfit(*kind, &value.node) {
            problems.add(value.pos, format!("`{}` of `@{}` must be {expected}", name.node, shape.name));
        }
    }
    for (name, _, is_required) in shape.arguments {
        if *is_required && directive.get_argument(name).is_none() {
            problems.add(directive.name.pos, format!("`@{}` needs `{name}`; add it", shape.name));
        }
    }
}

/// Returns what the value should be, if it is something else.
fn misfit(kind: Kind, value: &Value) -> Option<String> {
    let is_text = |value: &Value| matches!(value, Value::String(_));
    let (fits, expected) = match kind {
        Kind::Text => (is_text(value), "a text in quotes"),
        Kind::Texts => (
            is_text(value)
                || matches!(value, Value::List(items) if !items.is_empty() && items.iter().all(is_text)),
            "a list of texts in quotes, with one at least",
        ),
        Kind::Flag => (matches!(value, Value::Boolean(_)), "true or false"),
        Kind::Whole => (
            matches!(value, Value::Number(number) if number.as_u64().is_some()),
            "a whole number that is not negative",
        ),
        Kind::Number => (matches!(value, Value::Number(_)), "a number"),
        Kind::Object => (matches!(value, Value::Object(_)), "an object such as { name: \"{path}\" }"),
        Kind::OneOf(names) => {
            let fits = matches!(value, Value::Enum(name) if names.contains(&name.as_str()));
            return (!fits).then(|| format!("one of {}, without quotes", names.join(", ")));
        }
    };
    (!fits).then(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::declared::sdl::File;

    #[test]
    fn definitions_match_checks() {
        let file = File::parse(DIRECTIVES, &mut Problems::default()).unwrap();
        let names =
            |shape: &Shape| shape.arguments.iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
        let mut known: Vec<_> = SHAPES.iter().map(|shape| (shape.name.to_owned(), names(shape))).collect();
        let mut defined: Vec<_> = file
            .directives
            .iter()
            .map(|directive| {
                let arguments =
                    directive.arguments.iter().map(|argument| argument.node.name.node.to_string());
                (directive.name.node.to_string(), arguments.collect::<Vec<_>>())
            })
            .collect();
        known.sort();
        defined.sort();
        assert_eq!(known, defined);
        // The parser takes every directive for repeatable.
        let repeatable = SHAPES.iter().filter(|shape| shape.is_repeatable).count();
        assert_eq!(DIRECTIVES.matches(") repeatable on ").count(), repeatable);
    }
}
