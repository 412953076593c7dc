//! Checks of key templates against the documents that they see.
//!
//! A path that exists in no document would never give a key. So it is a mistake of the file.

use async_graphql::{Pos, parser::types::FieldDefinition};

use super::{
    problem::Problems,
    sdl::named,
    template::{Placeholder, Root, Template},
    types::{Found, Kind, Scalar, TypeId, Types},
};

/// Most templates of one field.
pub const MAX_TEMPLATES: usize = 16;

/// Key that every viewer listens to. No template gives it: a key has no `%` but in escapes.
pub const EVERYONE: &str = "%everyone";

/// Key template of the file, with its place.
#[derive(Clone, Debug)]
pub struct KeyRule {
    /// Place in the file.
    pub at: Pos,
    /// Template.
    pub template: Template,
}

/// Parses key templates at one place. A wrong one is reported and left out.
pub fn parse(at: Pos, texts: &[&str], problems: &mut Problems) -> Vec<KeyRule> {
    if texts.len() > MAX_TEMPLATES {
        problems.add(at, format!("there are {} templates; at most {MAX_TEMPLATES} are allowed", texts.len()));
    }
    let parsed = texts.iter().filter_map(|text| match Template::parse_key(text) {
        Ok(template) => Some(KeyRule { at, template }),
        Err(error) => {
            problems.add(at, error.to_string());
            None
        }
    });
    parsed.collect()
}

/// Checks that each path exists in at least one of the types, and may be part of a key. Returns
/// whether it is so.
pub fn check_payloads(
    rule: &KeyRule,
    of: &[TypeId],
    is_event: bool,
    types: &Types,
    problems: &mut Problems,
) -> bool {
    let before = problems.len();
    for placeholder in rule.template.placeholders() {
        match placeholder.root {
            Root::Author | Root::Id | Root::Time if is_event => {}
            Root::Document => {
                let found: Vec<_> = of.iter().filter_map(|of| types.find(*of, &placeholder.steps)).collect();
                if found.is_empty() && !of.is_empty() {
                    let names: Vec<_> = of.iter().map(|of| format!("`{}`", types.get(*of).name)).collect();
                    let text =
                        format!("there is no `{placeholder}` in {}; correct the path", names.join(" or "));
                    problems.add(rule.at, text);
                }
                check_leaf(rule.at, placeholder, found.first().map(|found| found.of), types, problems);
            }
            _ => {
                let text =
                    format!("`{{{placeholder}}}` is not known here; an audience depends on the data only");
                problems.add(rule.at, text);
            }
        }
    }
    problems.len() == before
}

/// Checks that each path starts at an argument of the field, or at the viewer. Returns whether it
/// is so.
pub fn check_arguments(
    rule: &KeyRule,
    field: &FieldDefinition,
    types: &Types,
    problems: &mut Problems,
) -> bool {
    let before = problems.len();
    for placeholder in rule.template.placeholders() {
        match placeholder.root {
            Root::Viewer => {}
            Root::Document => match argument(field, &placeholder.steps, types) {
                Some(found) => check_leaf(rule.at, placeholder, Some(found.of), types, problems),
                None => {
                    let text = format!("there is no argument `{placeholder}`; correct the path");
                    problems.add(rule.at, text);
                }
            },
            _ => {
                let text =
                    format!("`{{{placeholder}}}` is not known here; use arguments or {{$viewer.NAME}}");
                problems.add(rule.at, text);
            }
        }
    }
    problems.len() == before
}

/// Reports a path that ends at a value that no key takes.
fn check_leaf(
    at: Pos,
    placeholder: &Placeholder,
    of: Option<TypeId>,
    types: &Types,
    problems: &mut Problems,
) {
    let Some(of) = of else { return };
    if types.get(of).kind == Kind::Scalar(Scalar::Float) {
        problems
            .add(at, format!("`{placeholder}` is a Float, which makes no key; use an ID, a text or an Int"));
    } else if !types.is_leaf(of) {
        problems.add(at, format!("`{placeholder}` is an object; name one of its fields"));
    }
}

/// Returns what a path of arguments leads to; `None` if a step does not exist.
#[must_use]
pub fn argument(field: &FieldDefinition, steps: &[Box<str>], types: &Types) -> Option<Found> {
    let (first, rest) = steps.split_first()?;
    let argument = field.arguments.iter().find(|argument| argument.node.name.node == **first)?;
    let ty = &argument.node.ty.node;
    let mut found = types.find(types.id(named(ty))?, rest)?;
    found.is_list |= matches!(ty.base, async_graphql::parser::types::BaseType::List(_));
    found.is_nullable |= ty.nullable && argument.node.default_value.is_none();
    Some(found)
}

/// Returns the template with the field numbers of a type; `None` if the type lacks a path, so that
/// it never gives a key.
#[must_use]
pub fn compile(template: &Template, of: TypeId, types: &Types) -> Option<Template<usize>> {
    template.try_map(|Placeholder { root, steps, .. }| {
        let steps = if *root == Root::Document { types.find(of, steps)?.steps } else { Box::default() };
        Some(Placeholder { root: *root, exact: None, steps })
    })
}
