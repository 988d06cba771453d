//! `export`: a whole table into a file or a pipe.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;

use super::backup::Part;
use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, printable};
use crate::export::format::Format;
use crate::export::tables::Table;

/// A line for a terminal is shown in pieces of this size; a command's output may be one line.
const LINE_BYTES: usize = 64 * 1024;

#[derive(Debug, Args)]
pub struct Export {
    /// servers, report, operations, command_records, audit, keys, users or metrics
    #[arg(value_name = "TABLE", value_parser = table)]
    table: String,
    /// csv or json [default: csv, or json with --json]
    #[arg(long, value_name = "csv|json")]
    format: Option<Format>,
    /// File to write; it is replaced when the export is complete [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this server, for servers, report and metrics; may be given several times
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<String>,
    /// For metrics: name of a metric, for example cpu_percent; may be given several times
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
    /// For metrics: how far back, for example 24h or 7d [default: 1h]
    #[arg(long, value_name = "TIME")]
    period: Option<String>,
    /// For metrics: points of a series at most [default: 600]
    #[arg(long, value_name = "N")]
    points: Option<u32>,
}

fn table(text: &str) -> Result<String, String> {
    text.parse::<Table>().map(|_| text.to_owned())
}

impl Export {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let format = self.format.unwrap_or(if output.json { Format::Json } else { Format::Csv });
        let mut pairs = vec![("format", format.name().to_owned())];
        pairs.extend(self.servers.iter().map(|name| ("server", name.clone())));
        pairs.extend(self.metrics.iter().map(|name| ("metric", name.clone())));
        pairs.extend(self.period.clone().map(|period| ("period", period)));
        pairs.extend(self.points.map(|points| ("points", points.to_string())));
        let query =
            serde_urlencoded::to_string(&pairs).map_err(|error| CliError::failed(error.to_string()))?;
        let path = format!("/api/v1/export/{}?{query}", segment(&self.table)?);
        let Some(file) = &self.output else {
            if io::stdout().is_terminal() {
                let mut terminal = Terminal { line: Vec::new() };
                client.download(&path, None, &mut terminal).await?;
                return Ok(terminal.flush()?);
            }
            let mut stdout = io::stdout().lock();
            client.download(&path, None, &mut stdout).await?;
            return Ok(stdout.flush()?);
        };
        let part = Part::beside(file)?;
        let failed = |error: io::Error| CliError::failed(format!("cannot write {}: {error}", file.display()));
        let mut written =
            File::options().write(true).create_new(true).mode(0o600).open(&part.0).map_err(failed)?;
        client.download(&path, None, &mut written).await?;
        written.sync_all().and_then(|()| fs::rename(&part.0, file)).map_err(failed)
    }
}

/// Shows the text a line at a time, without what a terminal would obey.
struct Terminal {
    line: Vec<u8>,
}

impl Write for Terminal {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        for byte in part {
            if *byte == b'\n' || self.line.len() >= LINE_BYTES {
                self.flush()?;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let text = printable(&String::from_utf8_lossy(&std::mem::take(&mut self.line)));
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }
}
