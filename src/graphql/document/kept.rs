//! Keeps the documents that were parsed lately.
//!
//! Parsing is a third of the work of a small mutation
//! (`docs/decisions/0008-parsed-documents-are-kept.md`). For a subscription with an operation that
//! runs already, it is most of the work. The oldest documents make room for new ones: the memory
//! must stay bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use super::parsed::Document;

/// Most bytes of text that are kept: 512 KiB. Beyond that the oldest documents are dropped. A
/// parsed document takes about twenty times its text.
const MAX_BYTES: usize = 512 << 10;

/// Parsed documents by their text.
#[derive(Default)]
pub(super) struct Kept(Mutex<Documents>);

#[derive(Default)]
struct Documents {
    by_text: HashMap<Arc<str>, Arc<Document>>,
    order: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Kept {
    pub(super) fn get(&self, text: &str) -> Option<Arc<Document>> {
        self.documents().by_text.get(text).cloned()
    }

    pub(super) fn insert(&self, text: &str, document: &Arc<Document>) {
        let text: Arc<str> = text.into();
        let mut documents = self.documents();
        if documents.by_text.insert(text.clone(), document.clone()).is_some() {
            return;
        }
        documents.bytes += text.len();
        documents.order.push_back(text);
        while documents.bytes > MAX_BYTES
            && let Some(oldest) = documents.order.pop_front()
        {
            documents.bytes -= oldest.len();
            documents.by_text.remove(&oldest);
        }
    }

    fn documents(&self) -> MutexGuard<'_, Documents> {
        crate::lock::lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    #[test]
    fn oldest_documents_make_room_for_newest() {
        let kept = Kept::default();
        let document = Arc::new(parse_query("{ a }").unwrap().into());
        let text = |n: usize| format!("{{ a }} #{n}{}", "x".repeat(MAX_BYTES / 4));
        for n in 0..4 {
            kept.insert(&text(n), &document);
        }
        assert!(kept.get(&text(0)).is_none());
        assert!(kept.get(&text(3)).is_some());
        let documents = kept.documents();
        assert!(documents.bytes <= MAX_BYTES);
        assert_eq!(documents.order.len(), documents.by_text.len());
    }
}
