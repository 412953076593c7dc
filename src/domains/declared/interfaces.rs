//! Interfaces that a type implements: it must have their fields.

use super::{
    problem::Problems,
    sdl::Definition,
    types::{Kind, Types, Wrapping},
};

/// Checks that a type has the fields of its interfaces.
pub fn check(definition: &Definition, types: &Types, problems: &mut Problems) {
    let Some(id) = types.id(&definition.name.node) else { return };
    let (Kind::Object(ours) | Kind::Interface(ours)) = &types.get(id).kind else { return };
    for implemented in definition.implements() {
        let Some(interface) = types.id(&implemented.node) else { continue };
        let Kind::Interface(wanted) = &types.get(interface).kind else { continue };
        if interface == id {
            problems.add(implemented.pos, format!("`{}` implements itself; leave it out", implemented.node));
            continue;
        }
        for missing in wanted.implements.iter().filter(|base| !ours.implements.contains(base)) {
            let base = &types.get(*missing).name;
            problems.add(
                implemented.pos,
                format!("`{}` implements `{base}`; add `{base}` here", implemented.node),
            );
        }
        for field in &wanted.fields {
            let same = definition.field(&field.name);
            let Some(same) = same else {
                let text = format!(
                    "`{}` lacks the field `{}` of `{}`; add it",
                    definition.name.node, field.name, implemented.node
                );
                problems.add(implemented.pos, text);
                continue;
            };
            let Some(our_field) = ours.fields.iter().find(|ours| ours.name == field.name) else { continue };
            if !(types.is_member(our_field.of, field.of) && narrows(&our_field.wrapping, &field.wrapping)) {
                let text =
                    format!("`{}` has another type in `{}`; make them equal", field.name, implemented.node);
                problems.add(same.ty.pos, text);
            }
        }
    }
}

/// Returns whether values of `ours` are values of `wanted`, around the same named type.
fn narrows(ours: &Wrapping, wanted: &Wrapping) -> bool {
    let elements = match (&ours.element, &wanted.element) {
        (Some(ours), Some(wanted)) => narrows(ours, wanted),
        (ours, wanted) => ours.is_none() && wanted.is_none(),
    };
    elements && (wanted.is_nullable || !ours.is_nullable)
}
