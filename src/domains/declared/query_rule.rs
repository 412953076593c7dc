//! Fields of `Query`: each reads a table or a projection.

use async_graphql::{
    Name, Pos, Positioned,
    parser::types::{BaseType, FieldDefinition, InputValueDefinition, Type},
};

use super::{
    arguments,
    audience_rule::{self, AudienceRule},
    count_rule,
    directives::Place,
    filter::{self, Filter, Op},
    key_rule::KeyRule,
    problem::Problems,
    row::{AudienceNumber, RowAudiences},
    sdl::{File, named},
    state::States,
    trim::Trim,
    types::{TypeId, Types},
};

/// Argument of lists, which the engine adds: the most values to return.
pub const FIRST: &str = "first";

/// Argument of lists, which the engine adds: the key of the last value that the client has.
pub const AFTER_KEY: &str = "afterKey";

const PAGING: [&str; 2] = [FIRST, AFTER_KEY];

/// Field of `Query`.
#[derive(Clone, Debug)]
pub struct QueryRule {
    /// Definition of the field, with the arguments that the engine adds.
    pub definition: FieldDefinition,
    /// Type of the values.
    pub of: TypeId,
    /// Whether the field is a list, not a single value.
    pub is_list: bool,
    /// Argument that has the key of a single value.
    pub key: Option<Name>,
    /// Audience.
    pub audience: AudienceRule,
    /// Number of the audience among those of the values.
    pub row_audience: AudienceNumber,
    /// Keys that a viewer must listen to before the query runs.
    pub allows: Vec<KeyRule>,
    /// Arguments that narrow the result.
    pub filters: Vec<Filter>,
    /// Arguments that are trimmed.
    pub trims: Vec<Trim>,
}

/// Reads the fields of `Query`. A field with a mistake may lack a part.
pub fn queries(
    file: &File,
    types: &Types,
    states: &States,
    audiences: &mut RowAudiences,
    problems: &mut Problems,
) -> Vec<QueryRule> {
    let fields = file.get("Query").into_iter().flat_map(|root| root.fields());
    let fields = fields.filter(|field| !count_rule::is_count(&field.node));
    fields.filter_map(|field| read(&field.node, file, types, states, audiences, problems)).collect()
}

fn read(
    field: &FieldDefinition,
    file: &File,
    types: &Types,
    states: &States,
    audiences: &mut RowAudiences,
    problems: &mut Problems,
) -> Option<QueryRule> {
    let name = &field.name.node;
    if matches!(name.as_str(), "_service" | "_entities") {
        problems.add(field.name.pos, format!("the engine keeps `{name}` for itself; leave it out"));
        return None;
    }
    let id = types.id(named(&field.ty.node))?;
    let list = match &field.ty.node.base {
        BaseType::Named(_) => None,
        BaseType::List(element) => Some(element),
    };
    let state = states.by_type.get(&id);
    if state.is_none() && !has_directive(file, &types.get(id).name) {
        let text = format!("`{}` has no values; add `@table` or `@projection` to it", types.get(id).name);
        problems.add(field.ty.pos, text);
    } else if list.is_some_and(|element| matches!(element.base, BaseType::List(_))) {
        problems.add(field.ty.pos, format!("`{name}` must be one value or a list; not a list of lists"));
    }
    let of = if types.is_leaf(id) { Vec::new() } else { vec![id] };
    let audience = audience_rule::audience(field, Place::Query, &of, types, problems);
    let allows = audience_rule::allows(field, types, problems);
    let reserved: &[&str] = if list.is_some() { &PAGING } else { &[] };
    let filters = filter::filters(field, &of, &allows, reserved, types, problems);
    let mut key = None;
    if let (Some(state), None, [of]) = (state, list, &*of) {
        let is_key = |filter: &&Filter| {
            let argument = field.arguments.iter().find(|argument| argument.node.name.node == filter.argument);
            let is_required = argument.is_some_and(|argument| !argument.node.ty.node.nullable);
            filter.op == Op::Equals
                && !filter.is_list
                && is_required
                && filter.steps.get(of).is_some_and(|steps| **steps == [state.key])
        };
        key = filters.iter().find(is_key).map(|filter| filter.argument.clone());
        if key.is_none() {
            let key = &types.fields(*of)[state.key].name;
            let text =
                format!("`{name}` is one value; add a non-null argument with `@filter(field: \"{key}\")`");
            problems.add(field.name.pos, text);
        }
    }
    let audience = audience.unwrap_or_default();
    let row_audience = audience.compile(id, types, audiences);
    let is_list = list.is_some();
    let (mut definition, mut trims) = (field.clone(), filter::trims(&filters, types));
    if is_list {
        definition.arguments.extend(paging());
        let key = state.and_then(|state| types.fields(id).get(state.key));
        let key = key.filter(|field| field.constraint.trims).cloned();
        trims.extend(key.map(|field| Trim { path: [AFTER_KEY.into()].into(), field }));
    }
    Some(QueryRule { definition, of: id, is_list, key, audience, row_audience, allows, filters, trims })
}

/// Returns the arguments that the engine adds to lists.
fn paging() -> impl Iterator<Item = Positioned<InputValueDefinition>> {
    let texts = ["The most values to return: 0 to 1,000.", "The key of the last value that the client has."];
    let argument = |(name, (ty, text)): (&str, (&str, &str))| {
        let at = |node| Positioned::new(node, Pos::default());
        let ty = Type { base: BaseType::Named(Name::new(ty)), nullable: true };
        Positioned::new(
            InputValueDefinition {
                description: Some(Positioned::new(text.to_owned(), Pos::default())),
                name: at(Name::new(name)),
                ty: Positioned::new(ty, Pos::default()),
                default_value: None,
                directives: Vec::new(),
            },
            Pos::default(),
        )
    };
    PAGING.into_iter().zip(["Int", "ID"].into_iter().zip(texts)).map(argument)
}

/// Returns whether a type has a directive of state, even a wrong one, which is reported already.
fn has_directive(file: &File, name: &str) -> bool {
    let definition = file.get(name);
    let has = |directive| definition.is_some_and(|ty| arguments::find(&ty.directives, directive).is_some());
    has("table") || has("projection")
}
