//! [`Row`]: a value that queries see, with the keys of its audiences.
//!
//! A value's keys are made once, when the value is stored. A query that looks at thousands of rows
//! only compares them with the viewer's.

use std::{collections::HashMap, sync::Arc};

use super::{
    expansion::{Keys, MAX_KEYS},
    key_rule::EVERYONE,
    payload::{Node, Object},
    template::{Root, Template},
    types::TypeId,
};
use crate::audience::{Audience, Viewer};

/// Bytes of a key besides its text.
const KEY_OVERHEAD: usize = 32;

/// Number of an audience among those of its type. `None`: every viewer.
pub type AudienceNumber = Option<usize>;

/// Distinct audiences that the root fields of a file give to the values of each type.
#[derive(Debug, Default)]
pub struct RowAudiences(HashMap<TypeId, TypeAudiences>);

/// Distinct audiences of the values of one type: the templates of each.
#[derive(Clone, Debug, Default)]
pub struct TypeAudiences(Vec<Vec<Template<usize>>>);

impl RowAudiences {
    /// Returns the number of the audience with these templates among those of the type.
    pub fn add(&mut self, of: TypeId, templates: Vec<Template<usize>>) -> usize {
        let TypeAudiences(known) = self.0.entry(of).or_default();
        known.iter().position(|other| *other == templates).unwrap_or_else(|| {
            known.push(templates);
            known.len() - 1
        })
    }

    /// Returns the audiences of a type.
    #[must_use]
    pub fn of(&self, of: TypeId) -> TypeAudiences {
        self.0.get(&of).cloned().unwrap_or_default()
    }
}

impl TypeAudiences {
    /// Creates the row of a value.
    #[must_use]
    pub fn row(&self, value: Arc<Object>) -> Arc<Row> {
        let audiences: Box<[Audience]> = self.0.iter().map(|templates| audience(templates, &value)).collect();
        let sizes = audiences.iter().map(Audience::size);
        let bytes = value.bytes() + sizes.map(|(keys, bytes)| keys * KEY_OVERHEAD + bytes).sum::<usize>();
        Arc::new(Row { value, audiences, bytes })
    }
}

/// Returns the audience of a value. One with too many keys is for no viewer.
fn audience(templates: &[Template<usize>], value: &Object) -> Audience {
    let root = |root| (root == Root::Document).then_some(Node::Object(value));
    let mut keys = Keys::new(MAX_KEYS);
    if templates.iter().any(|template| template.expand(root, &mut keys).is_err()) {
        return Audience::none();
    }
    Audience::new(keys.into_keys().filter(|key| **key != *EVERYONE), None)
}

/// Value that queries see.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Value.
    pub value: Arc<Object>,
    audiences: Box<[Audience]>,
    bytes: usize,
}

impl Row {
    /// Returns whether the audience with this number includes the viewer.
    #[must_use]
    pub fn is_for(&self, audience: AudienceNumber, viewer: &Viewer) -> bool {
        let includes =
            |number| self.audiences.get(number).is_some_and(|audience: &Audience| audience.includes(viewer));
        audience.is_none_or(includes)
    }

    /// Returns the approximate memory of the row, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
