//! Reads the machine that the program itself runs on, through the agent's library.

use roundsman_agent::local::{Memory, Reader};

use super::ProbeError;
use crate::model::{Sections, Snapshot};

/// A probe of this machine. Runs on the blocking pool; needs a tokio runtime.
#[derive(Debug, Default)]
pub struct LocalProbe {
    /// Made at the first reading, as making it asks `uname`; made anew after a reading that was given up.
    reader: Option<(Reader, Memory)>,
}

impl LocalProbe {
    #[must_use]
    pub const fn new() -> Self {
        Self { reader: None }
    }

    /// One reading. What changes slowly is up to 20 s old, as an agent would tell it.
    ///
    /// # Errors
    /// [`ProbeError::Garbled`]: the reader gave up, which is a fault of ours. Trying again is safe.
    pub async fn read(&mut self, sections: Sections) -> Result<Snapshot, ProbeError> {
        let reader = self.reader.take();
        let work = move || {
            let (reader, mut memory) = reader.unwrap_or_default();
            let snapshot = reader.read_again(sections, &mut memory);
            ((reader, memory), snapshot)
        };
        let (reader, snapshot) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ProbeError::Garbled { reason: format!("the local reader failed: {error}") })?;
        self.reader = Some(reader);
        Ok(snapshot)
    }
}
