//! Arguments that narrow a result: `@filter`.

use std::collections::HashMap;

use async_graphql::{
    Name, Value,
    parser::types::{BaseType, ConstDirective, FieldDefinition, InputValueDefinition},
};

use super::{
    arguments,
    key_rule::KeyRule,
    problem::Problems,
    sdl::named,
    template::Root,
    trim::Trim,
    types::{Field, Found, Kind, Scalar, TypeId, Types},
};

/// Most arguments of a field that become part of index keys.
pub const MAX_INDEXED: usize = 3;

/// Most other arguments of a field.
pub const MAX_RESIDUAL: usize = 8;

/// Comparison of an argument with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Equality, or membership in a list.
    Equals,
    /// Field above the argument.
    Above,
    /// Field at or above the argument.
    AtLeast,
    /// Field below the argument.
    Below,
    /// Field at or below the argument.
    AtMost,
}

/// Argument that narrows a result.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Name of the argument.
    pub argument: Name,
    /// Comparison.
    pub op: Op,
    /// Whether the argument is a list.
    pub is_list: bool,
    /// Value of an absent argument.
    pub default: Option<Value>,
    /// Numbers of the fields on the way to the compared one, for each type of payload.
    pub steps: HashMap<TypeId, Box<[usize]>>,
}

/// Returns the arguments that are trimmed: those whose field has `trim` in each type of payload.
#[must_use]
pub fn trims(filters: &[Filter], types: &Types) -> Vec<Trim> {
    let trim = |filter: &Filter| {
        let fields = filter.steps.iter().map(|(of, steps)| types.field_at(*of, steps));
        let fields: Vec<&Field> = fields.collect::<Option<_>>()?;
        let is_trimmed = fields.iter().all(|field| field.constraint.trims);
        let field = (*fields.first().filter(|_| is_trimmed)?).clone();
        Some(Trim { path: [filter.argument.as_str().into()].into(), field })
    };
    filters.iter().filter_map(trim).collect()
}

/// Reads the filters of a root field over these types. `reserved` are names of arguments that the
/// engine adds.
pub fn filters(
    field: &FieldDefinition,
    of: &[TypeId],
    allows: &[KeyRule],
    reserved: &[&str],
    types: &Types,
    problems: &mut Problems,
) -> Vec<Filter> {
    let mut filters = Vec::new();
    for argument in field.arguments.iter().map(|argument| &argument.node) {
        let name = &argument.name;
        if reserved.contains(&name.node.as_str()) {
            problems.add(name.pos, format!("the engine adds `{}` itself; leave it out", name.node));
        } else if let Some(directive) = arguments::find(&argument.directives, "filter") {
            filters.extend(read(argument, directive, of, types, problems));
        } else if !serves(argument, allows) {
            let text = format!("`{}` has no effect; add `@filter`, or use it in `@allow`", name.node);
            problems.add(name.pos, text);
        }
    }
    let indexed = filters.iter().filter(|filter| filter.op == Op::Equals).count();
    for (count, most, what) in
        [(indexed, MAX_INDEXED, "indexed"), (filters.len() - indexed, MAX_RESIDUAL, "ordered")]
    {
        if count > most {
            let text =
                format!("`{}` has {count} {what} arguments; at most {most} are allowed", field.name.node);
            problems.add(field.name.pos, text);
        }
    }
    filters
}

/// Returns whether an `@allow` reads the argument.
fn serves(argument: &InputValueDefinition, allows: &[KeyRule]) -> bool {
    let placeholders = allows.iter().flat_map(|rule| rule.template.placeholders());
    let mut firsts =
        placeholders.filter(|path| path.root == Root::Document).filter_map(|path| path.steps.first());
    firsts.any(|first| argument.name.node == **first)
}

fn read(
    argument: &InputValueDefinition,
    directive: &ConstDirective,
    of: &[TypeId],
    types: &Types,
    problems: &mut Problems,
) -> Option<Filter> {
    let name = &argument.name.node;
    let (path, at) = match arguments::text(directive, "field") {
        Some(path) => (path, arguments::place_of(directive, "field")),
        None => (name.as_str(), argument.name.pos),
    };
    let names: Vec<Box<str>> = path.split('.').map(Into::into).collect();
    let mut steps = HashMap::new();
    let mut last = None;
    for of in of {
        let Some(found) = types.find(*of, &names) else {
            let text =
                format!("there is no `{path}` in `{}`; name a field with `field`", types.get(*of).name);
            problems.add(at, text);
            return None;
        };
        if !types.is_leaf(found.of) {
            problems.add(at, format!("`{path}` is an object; name one of its fields"));
            return None;
        }
        steps.insert(*of, found.steps.clone());
        last = Some(found);
    }
    let op = match directive.get_argument("op").map(|op| &op.node) {
        None => Op::Equals,
        Some(Value::Enum(op)) => match op.as_str() {
            "EQUALS" => Op::Equals,
            "ABOVE" => Op::Above,
            "AT_LEAST" => Op::AtLeast,
            "BELOW" => Op::Below,
            "AT_MOST" => Op::AtMost,
            _ => return None,
        },
        Some(_) => return None,
    };
    check_type(argument, directive, op, last.as_ref(), types, problems);
    let default = argument.default_value.as_ref().map(|value| value.node.clone());
    let is_list = matches!(argument.ty.node.base, BaseType::List(_));
    Some(Filter { argument: name.clone(), op, is_list, default, steps })
}

/// Reports an argument that cannot be compared with its field.
fn check_type(
    argument: &InputValueDefinition,
    directive: &ConstDirective,
    op: Op,
    found: Option<&Found>,
    types: &Types,
    problems: &mut Problems,
) {
    let (Some(found), Some(ours)) = (found, types.id(named(&argument.ty.node))) else { return };
    let (name, field) = (&argument.name.node, &types.get(found.of).name);
    let scalar = |id: TypeId| match types.get(id).kind {
        Kind::Scalar(scalar) => Some(scalar),
        _ => None,
    };
    let text = [Some(Scalar::Id), Some(Scalar::Text)];
    let fits = ours == found.of
        || (text.contains(&scalar(ours)) && text.contains(&scalar(found.of)))
        || (scalar(ours) == Some(Scalar::Int) && scalar(found.of) == Some(Scalar::Float));
    let is_deep = match &argument.ty.node.base {
        BaseType::List(element) => matches!(element.base, BaseType::List(_)),
        BaseType::Named(_) => false,
    };
    let is_list = matches!(argument.ty.node.base, BaseType::List(_));
    let is_float = scalar(found.of) == Some(Scalar::Float);
    if !fits || is_deep {
        let text =
            format!("`{name}` must be `{field}` or a list of it, as the field that it is compared with");
        problems.add(argument.ty.pos, text);
    } else if op == Op::Equals && is_float {
        let text = format!(
            "`{name}` compares a Float for equality, which is unsafe; set `op` to AT_LEAST or another"
        );
        problems.add(directive.name.pos, text);
    } else if op != Op::Equals
        && (is_list || scalar(found.of).is_none() || scalar(found.of) == Some(Scalar::Boolean))
    {
        let text = "only single numbers and texts have an order; leave `op` out";
        problems.add(arguments::place_of(directive, "op"), text);
    }
}
