//! The web: pages, live updates, the REST API and what serves them.
//!
//! Nothing here decides about servers; handlers ask a service and show its answer.

pub mod assets;
pub mod pages;
pub mod view;
