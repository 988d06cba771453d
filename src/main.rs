//! Arguments, logs, exit code: `serve` goes to the app, everything else to the command line.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use clap::Parser as _;
use roundsman::app::{self, AppError};
use roundsman::cli::{self, Arguments, CliError, Command, NotOpened, Opened, Opening, Resealing, StandAlone};
use roundsman::config::{Config, ENVIRONMENT, Flags, LogFormat};
use tracing_subscriber::EnvFilter;

/// Thousands of servers make many small allocations of mixed age; glibc's allocator spent half of all CPU time on
/// them and kept half as much memory again (measured; see docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Everything that this process makes is for its own user: databases with their logs, sockets, keys.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    let arguments = Arguments::parse();
    let as_json = arguments.global.json;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // Only another provider could be in the way, and none is linked; TLS works with it as well.
        drop(std::io::stderr().write_all(b"roundsman: another TLS provider is active\n"));
    }
    match start(arguments) {
        Ok(code) => code,
        Err(error) => cli::report(&error, as_json),
    }
}

fn start(arguments: Arguments) -> Result<ExitCode, CliError> {
    if let Command::Serve(serve) = &arguments.command {
        let flags = serve.flags(&arguments.global);
        let config = Config::load(&flags, ENVIRONMENT).map_err(|error| CliError::Usage(error.to_string()))?;
        log_to_stderr(config.log_format);
        let served = runtime(true)?.block_on(app::serve(config));
        return served.map(|()| ExitCode::SUCCESS).map_err(|error| CliError::Failed(causes(&error)));
    }
    // One thread is enough to ask and to wait, unless the data directory is opened in this process.
    Ok(runtime(false)?.block_on(cli::run(arguments, &DataDirectory)))
}

fn runtime(server: bool) -> Result<tokio::runtime::Runtime, CliError> {
    let mut builder = if server {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("the system gives no threads or events: {error}")))
}

/// `ROUNDSMAN_LOG` (else info) says which lines; see the documentation of `EnvFilter` in tracing-subscriber.
fn log_to_stderr(format: LogFormat) {
    // The SSH library is kept at warnings whatever is asked for: its details are packets.
    let quiet = |filter: EnvFilter| match "russh=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let filter = quiet(EnvFilter::try_from_env("ROUNDSMAN_LOG").unwrap_or_else(|_| EnvFilter::new("info")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// An error with what lies under it, in one line.
fn causes(error: &AppError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

/// Opens data directories for commands while no server runs.
struct DataDirectory;

impl StandAlone for DataDirectory {
    fn open<'a>(&'a self, data: &'a Path) -> Opening<'a> {
        Box::pin(async move {
            let flags = Flags { data: Some(data.to_owned()), ..Flags::default() };
            let config =
                Config::load(&flags, ENVIRONMENT).map_err(|error| NotOpened::Failed(error.to_string()))?;
            match app::offline(&config).await {
                Ok(offline) => Ok(Box::new(OpenData(offline)) as Box<dyn Opened>),
                Err(AppError::Locked { .. }) => Err(NotOpened::Locked),
                Err(error) => Err(NotOpened::Failed(causes(&error))),
            }
        })
    }

    fn reseal<'a>(&'a self, data: &'a Path, key_file: &'a Path) -> Resealing<'a> {
        Box::pin(async move {
            let flags = Flags { data: Some(data.to_owned()), ..Flags::default() };
            let config =
                Config::load(&flags, ENVIRONMENT).map_err(|error| NotOpened::Failed(error.to_string()))?;
            match app::reseal(&config, key_file).await {
                Ok(count) => Ok((count, config.master_key.is_none())),
                Err(AppError::Locked { .. }) => Err(NotOpened::Locked),
                Err(error) => Err(NotOpened::Failed(causes(&error))),
            }
        })
    }
}

struct OpenData(app::Offline);

impl Opened for OpenData {
    fn close(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.0.close())
    }
}
