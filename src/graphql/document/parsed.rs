//! [`Document`]: a parsed document, which the schema validates once.

use std::sync::atomic::{AtomicBool, Ordering};

use async_graphql::parser::types::ExecutableDocument;

/// Parsed document.
pub(in crate::graphql) struct Document {
    tree: ExecutableDocument,
    is_valid: AtomicBool,
}

impl Document {
    /// Returns the document.
    pub(in crate::graphql) const fn tree(&self) -> &ExecutableDocument {
        &self.tree
    }

    /// Returns whether the schema has validated the document.
    pub(in crate::graphql) fn is_valid(&self) -> bool {
        self.is_valid.load(Ordering::Relaxed)
    }

    /// Notes that the schema has validated the document.
    pub(in crate::graphql) fn set_valid(&self) {
        self.is_valid.store(true, Ordering::Relaxed);
    }
}

impl From<ExecutableDocument> for Document {
    fn from(tree: ExecutableDocument) -> Self {
        Self { tree, is_valid: AtomicBool::new(false) }
    }
}
