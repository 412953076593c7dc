//! Expansion of a template over a document: a payload, claims, a row or arguments.
//!
//! It fails closed: a path without a value gives no key. Values are escaped, so that no value can
//! forge a key with other segments. It must never visit more nodes than its bound.

use std::{borrow::Cow, collections::BTreeSet};

use thiserror::Error;

use super::template::{Piece, Placeholder, Root, Template};
use crate::audience::Key;

/// Most keys of an event on one field, or of a row. An event with more is malformed.
pub const MAX_KEYS: usize = 1_000;

/// Longest key, in bytes. A longer one refuses its event or its viewer.
pub const MAX_KEY_BYTES: usize = 512;

/// Most nodes that one expansion visits. More refuse the event or the viewer, since lists without
/// values could otherwise be combined for hours.
const MAX_VISITS: usize = 100_000;

/// Why the keys of a template are refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Excess {
    /// The keys are more than their bound, or combine too many elements of lists.
    #[error("too many keys")]
    Keys,
    /// A key exceeds [`MAX_KEY_BYTES`].
    #[error("a key of more than {MAX_KEY_BYTES} bytes")]
    Bytes,
}

/// Node of a document that templates read.
pub trait Document<'a>: Copy {
    /// Step from an object to one of its values.
    type Step: PartialEq;

    /// Returns the number of elements, if the node is a list.
    fn length(self) -> Option<usize>;

    /// Returns the element at this place of a list; `None` if there is none.
    fn element(self, place: usize) -> Option<Self>;

    /// Returns the value behind the step; `None` if the node has no such value.
    fn field(self, step: &Self::Step) -> Option<Self>;

    /// Returns the text that a key takes from the node. Only non-empty texts, whole numbers,
    /// booleans and enum values have one.
    fn text(self) -> Option<Cow<'a, str>>;
}

/// Distinct keys, up to a bound.
#[derive(Debug)]
pub struct Keys {
    keys: BTreeSet<Key>,
    most: usize,
}

impl Keys {
    /// Creates an empty set that takes at most this many keys.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { keys: BTreeSet::new(), most }
    }

    /// Returns the keys, sorted.
    pub fn into_keys(self) -> impl Iterator<Item = Key> {
        self.keys.into_iter()
    }

    fn insert(&mut self, key: &str) -> Result<(), Excess> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Excess::Bytes);
        }
        if !self.keys.contains(key) {
            if self.keys.len() == self.most {
                return Err(Excess::Keys);
            }
            self.keys.insert(key.into());
        }
        Ok(())
    }
}

impl<S> Template<S> {
    /// Adds the keys of a document to `keys`. `root` returns the node that a path starts at.
    ///
    /// Placeholders that go through the same list take the same element; all others are combined.
    /// A placeholder without a value gives no key.
    ///
    /// # Errors
    /// [`Excess`]: the keys exceed a bound. `keys` then has some of them.
    pub fn expand<'a, D: Document<'a, Step = S>>(
        &self,
        root: impl Fn(Root) -> Option<D>,
        keys: &mut Keys,
    ) -> Result<(), Excess>
    where
        S: PartialEq,
    {
        Expansion::new(root, true, keys).pieces(self.pieces())
    }

    /// Adds the texts of a document to `texts`, with values as they are. They must never be used as
    /// keys.
    ///
    /// # Errors
    /// As [`Self::expand`].
    pub fn texts<'a, D: Document<'a, Step = S>>(
        &self,
        root: impl Fn(Root) -> Option<D>,
        texts: &mut Keys,
    ) -> Result<(), Excess>
    where
        S: PartialEq,
    {
        Expansion::new(root, false, texts).pieces(self.pieces())
    }
}

/// Expansion of one template over one document.
struct Expansion<'t, S, F> {
    root: F,
    /// Lists that the path so far went through, with the place of the element that was taken.
    taken: Vec<(List<'t, S>, usize)>,
    text: String,
    /// Number of values that were left out of `text`, since it would exceed the longest key.
    left_out: usize,
    escapes: bool,
    visits: usize,
    keys: &'t mut Keys,
}

/// List that a path goes through: its root, the steps to it, and its depth in a list of lists.
type List<'t, S> = (Root, &'t [S], usize);

/// Place of a walk: the steps of the path, how many are done, and the depth in a list of lists.
struct Walk<'t, S> {
    root: Root,
    steps: &'t [S],
    done: usize,
    depth: usize,
}

impl<'a, 't, S, D, F> Expansion<'t, S, F>
where
    S: PartialEq,
    D: Document<'a, Step = S>,
    F: Fn(Root) -> Option<D>,
{
    const fn new(root: F, escapes: bool, keys: &'t mut Keys) -> Self {
        Self { root, taken: Vec::new(), text: String::new(), left_out: 0, escapes, visits: 0, keys }
    }

    fn pieces(&mut self, pieces: &'t [Piece<S>]) -> Result<(), Excess> {
        let Some((piece, rest)) = pieces.split_first() else {
            return if self.left_out > 0 { Err(Excess::Bytes) } else { self.keys.insert(&self.text) };
        };
        let length = self.text.len();
        match piece {
            Piece::Text(text) => {
                self.text.push_str(text);
                self.pieces(rest)?;
            }
            Piece::Placeholder(Placeholder { root, exact, steps }) => {
                let Some(node) = (self.root)(*root) else { return Ok(()) };
                let is_exact = exact.as_ref().is_some_and(|exact| node.field(exact).is_some());
                let steps = if is_exact { exact.as_slice() } else { steps };
                self.walk(node, &Walk { root: *root, steps, done: 0, depth: 0 }, rest)?;
            }
        }
        self.text.truncate(length);
        Ok(())
    }

    fn walk(&mut self, node: D, walk: &Walk<'t, S>, rest: &'t [Piece<S>]) -> Result<(), Excess> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(Excess::Keys);
        }
        let Walk { root, steps, done, depth } = *walk;
        if let Some(length) = node.length() {
            let list = (root, &steps[..done], depth);
            let inner = Walk { depth: depth + 1, ..*walk };
            if let Some(place) = self.taken.iter().find(|(taken, _)| *taken == list) {
                let element = node.element(place.1);
                return element.map_or(Ok(()), |element| self.walk(element, &inner, rest));
            }
            for place in 0..length {
                let Some(element) = node.element(place) else { continue };
                self.taken.push((list, place));
                self.walk(element, &inner, rest)?;
                self.taken.pop();
            }
        } else if let Some(step) = steps.get(done) {
            if let Some(field) = node.field(step) {
                self.walk(field, &Walk { done: done + 1, depth: 0, ..*walk }, rest)?;
            }
        } else if let Some(text) = node.text() {
            self.value(&text, rest)?;
        }
        Ok(())
    }

    fn value(&mut self, value: &str, rest: &'t [Piece<S>]) -> Result<(), Excess> {
        // A long value must not be copied for each element of a list.
        if self.text.len() + value.len() > MAX_KEY_BYTES {
            self.left_out += 1;
            self.pieces(rest)?;
            self.left_out -= 1;
            return Ok(());
        }
        let length = self.text.len();
        if self.escapes {
            escape(value, &mut self.text);
        } else {
            self.text.push_str(value);
        }
        self.pieces(rest)?;
        self.text.truncate(length);
        Ok(())
    }
}

/// Appends the value with `/`, `:`, `|` and `%` escaped.
pub fn escape(value: &str, into: &mut String) {
    for character in value.chars() {
        match character {
            '%' => into.push_str("%25"),
            '/' => into.push_str("%2F"),
            ':' => into.push_str("%3A"),
            '|' => into.push_str("%7C"),
            character => into.push(character),
        }
    }
}

#[cfg(test)]
mod tests;
