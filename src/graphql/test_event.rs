//! [`TestEvent`]: an event that an operator writes by hand, published as that of a mutation.
//!
//! Clients receive it and it changes state, as an event of any program on the topic does. The
//! domain must be able to read it before it is published. It must never be a control event.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use bytes::Bytes;
use thiserror::Error;

use super::{
    error::{Code, Error},
    event_publisher::EventPublisher,
    receipt::Receipt,
};
use crate::{
    domain::Unreadable,
    event::{CONTROL, Event},
};

/// Author in the rates of test events: all operators of a pod share one rate.
const OPERATORS: &str = "operators";

/// Event that an operator writes.
#[derive(Clone, Debug)]
pub struct TestEvent {
    /// Type of the event.
    pub kind: Arc<str>,
    /// Id of the user who counts as its author; `None`: it has none.
    pub author: Option<Arc<str>>,
    /// Data of the event.
    pub data: Bytes,
}

/// Why a test event was not published.
#[derive(Debug, Error)]
pub enum NotPublished {
    /// The domain has no such type.
    #[error("this domain has no event of the type `{0}`")]
    UnknownType(Arc<str>),
    /// The data does not fit the type.
    #[error("{0}")]
    Misfit(String),
    /// A rate is used up, or the topic did not take the event.
    #[error(transparent)]
    Refused(#[from] Error),
}

impl NotPublished {
    /// Returns the code of the reason, as the answer contains it.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::UnknownType(_) => Code::NotFound,
            Self::Misfit(_) => Code::BadUserInput,
            Self::Refused(error) => error.code(),
        }
    }
}

impl EventPublisher {
    /// Publishes a test event. Returns its identity once the topic has acknowledged it.
    ///
    /// # Errors
    /// [`NotPublished`]; nothing is published then.
    pub async fn publish_test(&self, test: TestEvent) -> Result<Arc<str>, NotPublished> {
        let TestEvent { kind, author, data } = test;
        let event = Event::new(self.source.clone(), &kind, author, data);
        // Without the control secret, pods would believe a heartbeat that comes from here.
        if kind.starts_with(CONTROL) {
            return Err(NotPublished::UnknownType(kind));
        }
        let read = panic::catch_unwind(AssertUnwindSafe(|| self.domain.read(&event)));
        let panicked = |_| Err(Unreadable::Malformed("the domain panicked at it".to_owned()));
        let fact = read.unwrap_or_else(panicked).map_err(|unreadable| match unreadable {
            Unreadable::UnknownType => NotPublished::UnknownType(kind),
            misfit => NotPublished::Misfit(misfit.to_string()),
        })?;
        self.test_rate.take(&OPERATORS.into(), event.data.len()).map_err(Error::rate_limited)?;
        let id = event.identity();
        self.commit(event, |_| Ok(fact), &Receipt::default()).await?;
        Ok(id)
    }
}
