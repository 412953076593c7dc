//! Rules of access to a root field: `@audience` and `@allow`.

use async_graphql::{Value, parser::types::FieldDefinition};

use super::{
    arguments,
    directives::Place,
    key_rule::{self, KeyRule},
    problem::Problems,
    row::{AudienceNumber, RowAudiences},
    types::{TypeId, Types},
};

/// Audience of a field's values.
#[derive(Clone, Debug, Default)]
pub struct AudienceRule {
    /// Whether every viewer is included.
    pub is_everyone: bool,
    /// Whether the author of an event is excluded.
    pub excludes_author: bool,
    /// Keys of which a viewer must listen to one.
    pub keys: Vec<KeyRule>,
}

impl AudienceRule {
    /// Returns the number of this audience among those of the values of a type.
    pub fn compile(&self, of: TypeId, types: &Types, audiences: &mut RowAudiences) -> AudienceNumber {
        let templates = self.keys.iter().filter_map(|key| key_rule::compile(&key.template, of, types));
        (!self.is_everyone).then(|| audiences.add(of, templates.collect()))
    }
}

/// Reads the audience of a field whose values have these types. `None` if there is none, or if a
/// key of it is wrong.
pub fn audience(
    field: &FieldDefinition,
    place: Place,
    of: &[TypeId],
    types: &Types,
    problems: &mut Problems,
) -> Option<AudienceRule> {
    let name = &field.name.node;
    let Some(directive) = arguments::find(&field.directives, "audience") else {
        if place != Place::Mutation {
            let text = format!("`{name}` has no `@audience`; add its keys, or `everyone: true`");
            problems.add(field.name.pos, text);
        }
        return None;
    };
    let before = problems.len();
    let given = directive.get_argument("keys");
    let is_everyone = arguments::flag(directive, "everyone");
    match (given, is_everyone) {
        (Some(keys), true) => {
            problems.add(keys.pos, "an audience is either everyone or has keys; leave one out");
        }
        (None, false) => {
            problems.add(directive.name.pos, "the audience is empty; add keys, or `everyone: true`")
        }
        _ => {}
    }
    if arguments::flag(directive, "exceptAuthor") && place != Place::Subscription {
        let text = "`exceptAuthor` is for subscriptions only; leave it out";
        problems.add(arguments::place_of(directive, "exceptAuthor"), text);
    }
    let at = arguments::place_of(directive, "keys");
    let texts = arguments::texts(directive, "keys");
    let mut keys = key_rule::parse(at, &texts, problems);
    let is_event = place == Place::Subscription;
    keys.retain(|key| key_rule::check_payloads(key, of, is_event, types, problems));
    let excludes_author = arguments::flag(directive, "exceptAuthor");
    (problems.len() == before).then_some(AudienceRule { is_everyone, excludes_author, keys })
}

/// Reads every `@allow` of a field. A wrong one is reported and left out.
pub fn allows(field: &FieldDefinition, types: &Types, problems: &mut Problems) -> Vec<KeyRule> {
    let mut allows = Vec::new();
    for directive in arguments::all(&field.directives, "allow") {
        let Some(Value::String(text)) = directive.get_argument("key").map(|key| &key.node) else { continue };
        let at = arguments::place_of(directive, "key");
        let parsed = key_rule::parse(at, &[text], problems).into_iter();
        allows.extend(parsed.filter(|rule| key_rule::check_arguments(rule, field, types, problems)));
    }
    if allows.len() > key_rule::MAX_TEMPLATES {
        let text = format!("at most {} `@allow` are allowed on a field", key_rule::MAX_TEMPLATES);
        problems.add(field.name.pos, text);
    }
    allows
}
