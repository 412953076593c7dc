//! Fields of `Subscription`: the events that each delivers, and to which audience.

use std::{collections::HashMap, sync::Arc};

use async_graphql::parser::types::{BaseType, ConstDirective, FieldDefinition};

use super::{
    arguments,
    audience_rule::{self, AudienceRule},
    count_rule,
    directives::Place,
    filter::{self, Filter},
    key_rule::{self, KeyRule},
    problem::Problems,
    sdl::{File, named},
    template::Template,
    trim::Trim,
    types::{TypeId, Types},
};

/// Most fields of `Subscription`.
pub const MAX_FIELDS: usize = 100;

/// Arguments that the engine adds to every subscription field.
const RESERVED: [&str; 1] = ["after"];

/// Field of `Subscription`.
#[derive(Clone, Debug)]
pub struct SubscriptionRule {
    /// Name of the field.
    pub name: Arc<str>,
    /// Definition of the field.
    pub definition: FieldDefinition,
    /// Named type of the field.
    pub of: TypeId,
    /// Event types that are delivered on the field, with the types of their data.
    pub events: Vec<(Box<str>, TypeId)>,
    /// Audience.
    pub audience: AudienceRule,
    /// Templates of the audience for each type of data.
    pub keys: HashMap<TypeId, Vec<Template<usize>>>,
    /// Keys that a viewer must listen to before the subscription starts.
    pub allows: Vec<KeyRule>,
    /// Arguments that narrow the result.
    pub filters: Vec<Filter>,
    /// Arguments that are trimmed.
    pub trims: Vec<Trim>,
}

/// Reads the fields of `Subscription`. A field with a mistake may lack a part.
pub fn subscriptions(file: &File, types: &Types, problems: &mut Problems) -> Vec<SubscriptionRule> {
    let Some(root) = file.get("Subscription") else { return Vec::new() };
    if let Some(field) = root.fields().get(MAX_FIELDS) {
        let text = format!("`Subscription` has more than {MAX_FIELDS} fields; join some");
        problems.add(field.node.name.pos, text);
    }
    let fields = root.fields().iter().filter(|field| !count_rule::is_count(&field.node));
    fields.filter_map(|field| read(&field.node, types, problems)).collect()
}

fn read(field: &FieldDefinition, types: &Types, problems: &mut Problems) -> Option<SubscriptionRule> {
    let name = &field.name.node;
    let of = types.id(named(&field.ty.node));
    if matches!(field.ty.node.base, BaseType::List(_)) || of.is_some_and(|of| types.is_leaf(of)) {
        let text = format!("`{name}` must be one object, interface or union; wrap the value in a type");
        problems.add(field.ty.pos, text);
        return None;
    }
    if !field.ty.node.nullable {
        let text = format!("`{name}` must be nullable, since null announces a gap; leave out the `!`");
        problems.add(field.ty.pos, text);
    }
    let (events, is_whole) = events(field, of, types, problems);
    let mut payloads: Vec<TypeId> = events.iter().map(|(_, payload)| *payload).collect();
    payloads.sort_unstable();
    payloads.dedup();
    if !is_whole {
        // Paths that the missing data might have are no further problem.
        payloads.clear();
    }
    let audience = audience_rule::audience(field, Place::Subscription, &payloads, types, problems);
    let allows = audience_rule::allows(field, types, problems);
    let filters = filter::filters(field, &payloads, &allows, &RESERVED, types, problems);
    let audience = audience.unwrap_or_default();
    let keys = payloads.iter().map(|payload| {
        let templates = audience.keys.iter();
        let compiled = templates.filter_map(|key| key_rule::compile(&key.template, *payload, types));
        (*payload, compiled.collect())
    });
    let keys = keys.collect();
    let (name, definition) = (name.as_str().into(), field.clone());
    let trims = filter::trims(&filters, types);
    Some(SubscriptionRule { name, definition, of: of?, events, audience, keys, allows, filters, trims })
}

/// Returns the events of a field with the types of their data, and whether all are right.
fn events(
    field: &FieldDefinition,
    of: Option<TypeId>,
    types: &Types,
    problems: &mut Problems,
) -> (Vec<(Box<str>, TypeId)>, bool) {
    let name = &field.name.node;
    let before = problems.len();
    let mut events: Vec<(Box<str>, TypeId)> = Vec::new();
    for directive in arguments::all(&field.directives, "event") {
        let Some(kind) = arguments::text(directive, "type") else { continue };
        if events.iter().any(|(known, _)| **known == *kind) {
            let text = format!("event `{kind}` stands twice on `{name}`; leave one out");
            problems.add(arguments::place_of(directive, "type"), text);
        } else if let Some(payload) = of.and_then(|of| payload(directive, of, types, problems)) {
            events.push((kind.into(), payload));
        }
    }
    if arguments::find(&field.directives, "event").is_none() {
        let text = format!("`{name}` has no `@event`, so that it delivers nothing; add one");
        problems.add(field.name.pos, text);
    }
    (events, problems.len() == before)
}

/// Returns the type of an event's data on a field of type `of`.
fn payload(directive: &ConstDirective, of: TypeId, types: &Types, problems: &mut Problems) -> Option<TypeId> {
    let field = &types.get(of).name;
    let Some(name) = arguments::text(directive, "as") else {
        if types.is_object(of) {
            return Some(of);
        }
        let text = format!("`{field}` is no object type; name the type of the data with `as`");
        problems.add(directive.name.pos, text);
        return None;
    };
    let at = arguments::place_of(directive, "as");
    if types.is_object(of) {
        problems.add(at, format!("`{field}` is an object type, so that the data is one; leave `as` out"));
        return None;
    }
    let member = types.id(name).filter(|member| types.is_object(*member) && types.is_member(*member, of));
    if member.is_none() {
        problems.add(at, format!("`{name}` is no object type of `{field}`; name one of its members"));
    }
    member
}
