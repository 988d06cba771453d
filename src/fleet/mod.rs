//! The fleet: which servers there are, the task that reads each of them, and what is known of them now.

mod state;

pub use state::{Figures, ServerState, Summary};
