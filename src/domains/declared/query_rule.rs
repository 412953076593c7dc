//! Fields of `Query`: each reads a table or a projection.

use async_graphql::parser::types::{BaseType, FieldDefinition};

use super::{
    arguments, audience_rule,
    directives::Place,
    filter::{self, Op},
    key_rule::KeyRule,
    problem::Problems,
    sdl::{File, named},
    state::States,
    types::Types,
};

/// Arguments that the engine adds to lists.
const PAGING: [&str; 2] = ["first", "afterKey"];

/// Checks the fields of `Query`. Returns the keys of their audiences and their `@allow`s.
pub fn check(file: &File, types: &Types, states: &States, problems: &mut Problems) -> Vec<KeyRule> {
    let fields = file.get("Query").into_iter().flat_map(|root| root.fields());
    fields.flat_map(|field| check_field(&field.node, file, types, states, problems)).collect()
}

fn check_field(
    field: &FieldDefinition,
    file: &File,
    types: &Types,
    states: &States,
    problems: &mut Problems,
) -> Vec<KeyRule> {
    let name = &field.name.node;
    if matches!(name.as_str(), "_service" | "_entities") {
        problems.add(field.name.pos, format!("the engine keeps `{name}` for itself; leave it out"));
        return Vec::new();
    }
    let Some(of) = types.id(named(&field.ty.node)) else { return Vec::new() };
    let list = match &field.ty.node.base {
        BaseType::Named(_) => None,
        BaseType::List(element) => Some(element),
    };
    let state = states.by_type.get(&of);
    if state.is_none() && !has_directive(file, &types.get(of).name) {
        let text = format!("`{}` has no values; add `@table` or `@projection` to it", types.get(of).name);
        problems.add(field.ty.pos, text);
    } else if list.is_some_and(|element| matches!(element.base, BaseType::List(_))) {
        problems.add(field.ty.pos, format!("`{name}` must be one value or a list; not a list of lists"));
    }
    let of = if types.is_leaf(of) { Vec::new() } else { vec![of] };
    let audience = audience_rule::audience(field, Place::Query, &of, types, problems);
    let allows = audience_rule::allows(field, types, problems);
    let reserved: &[&str] = if list.is_some() { &PAGING } else { &[] };
    let filters = filter::filters(field, &of, &allows, reserved, types, problems);
    if let (Some(state), None, [of]) = (state, list, &*of) {
        let is_key = |filter: &&filter::Filter| {
            let argument = field.arguments.iter().find(|argument| argument.node.name.node == filter.argument);
            let is_required = argument.is_some_and(|argument| !argument.node.ty.node.nullable);
            filter.op == Op::Equals
                && is_required
                && filter.steps.get(of).is_some_and(|steps| **steps == [state.key])
        };
        if filters.iter().find(is_key).is_none() {
            let key = &types.fields(*of)[state.key].name;
            let text =
                format!("`{name}` is one value; add a non-null argument with `@filter(field: \"{key}\")`");
            problems.add(field.name.pos, text);
        }
    }
    audience.into_iter().flat_map(|audience| audience.keys).chain(allows).collect()
}

/// Returns whether a type has a directive of state, even a wrong one, which is reported already.
fn has_directive(file: &File, name: &str) -> bool {
    let definition = file.get(name);
    let has = |directive| definition.is_some_and(|ty| arguments::find(&ty.directives, directive).is_some());
    has("table") || has("projection")
}
