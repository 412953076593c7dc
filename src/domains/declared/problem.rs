//! Problems of a file: what is wrong at which place, and what to do.
//!
//! A check never stops at the first problem. All problems of a file are reported together.

use std::{collections::BTreeSet, fmt};

use async_graphql::Pos;

/// Mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)
    }
}

/// Problems found so far, sorted by place.
#[derive(Debug, Default)]
pub struct Problems(BTreeSet<Problem>);

impl Problems {
    /// Adds a problem at this place.
    pub fn add(&mut self, at: Pos, text: impl Into<String>) {
        // A text of the file may have line breaks.
        let text = text.into().chars().fold(String::new(), |mut line, character| {
            if character.is_control() {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
            line
        });
        self.0.insert(Problem { line: at.line, column: at.column, text });
    }

    /// Returns the number of problems.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no problem.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value if there is no problem.
    ///
    /// # Errors
    /// All problems, sorted by place.
    pub fn none<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0.into_iter().collect()) }
    }
}
