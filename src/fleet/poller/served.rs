//! The agent as a service on the server's loopback, as a probe over the connection that is there already.

use crate::collect::{ProbeError, agent::served};
use crate::model::{Port, Secret, Sections, Snapshot};
use crate::ssh::Connection;

/// Where the service is, and how it is asked.
#[derive(Debug)]
pub struct ServedAgent {
    connection: Connection,
    /// The server's, for a person.
    name: String,
    port: Port,
    /// Without it there are no command lines.
    token: Option<Secret<String>>,
}

impl ServedAgent {
    /// Finds our agent on that port.
    ///
    /// # Errors
    /// [`ProbeError::NoAgent`] with the reason: nothing listens, another program does, or the server forwards no ports.
    pub async fn find(
        connection: &Connection,
        name: &str,
        port: Port,
        token: Option<Secret<String>>,
    ) -> Result<Self, ProbeError> {
        let found = Self { connection: connection.clone(), name: name.to_owned(), port, token };
        served::greet(found.dial().await?).await?;
        Ok(found)
    }

    /// # Errors
    /// As [`Self::find`], and what [`served::read`] says.
    pub async fn read(&self, sections: Sections) -> Result<Snapshot, ProbeError> {
        served::read(self.dial().await?, self.token.as_ref(), sections).await
    }

    async fn dial(&self) -> Result<crate::ssh::LocalPort, ProbeError> {
        self.connection.open_local_port(&self.name, self.port).await.map_err(|error| {
            if self.connection.is_closed() {
                return ProbeError::Closed;
            }
            ProbeError::NoAgent { reason: error.to_string() }
        })
    }
}
