//! Declared domain: a domain in one GraphQL file.
//!
//! A team writes its types and its rules in one file, as directives. This module checks the file
//! and runs its rules. No file of this folder may hold code of a team, or name a broker or a
//! transport.

pub mod allow;
pub mod api;
pub mod arguments;
pub mod audience_rule;
pub mod cells;
pub mod claims;
pub mod coerce;
pub mod comparison;
pub mod constraint;
pub mod costs;
pub mod count_rule;
pub mod definitions;
pub mod directives;
pub mod directory;
pub mod domain;
pub mod envelope;
pub mod event_types;
pub mod execution;
pub mod expansion;
pub mod federation;
pub mod filter;
pub mod foreign;
pub mod interest;
pub mod interfaces;
pub mod json;
pub mod key_match;
pub mod key_rule;
pub mod mutation_rule;
pub mod payload;
pub mod plan;
pub mod problem;
pub mod projection;
pub mod publication;
pub mod query;
pub mod query_rule;
pub mod reader;
pub mod root_arguments;
pub mod row;
pub mod rules;
pub mod schema;
pub mod sdl;
pub mod selection;
pub mod state;
pub mod subscription_rule;
pub mod template;
pub mod topic_clock;
pub mod trial;
pub mod trim;
pub mod types;
pub mod value_check;
pub mod value_template;
pub mod values;
pub mod viewer_paths;
pub mod viewers;
pub mod wire;

pub use self::{api::api, costs::costs, directives::DIRECTIVES, domain::Declared};
