//! Finding the Roundsman to talk to: an address, a control socket, or a data directory that no server runs on.

use std::fs::File;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use super::Global;
use super::client::Client;
use super::error::CliError;
use crate::config::{self, ENVIRONMENT, data_directory, runtime_pointer};
use crate::model::Secret;

/// Name of the control socket in a data directory.
const SOCKET: &str = "control.sock";
/// Name of the control data; a directory without it is no data directory.
const DATABASE: &str = "roundsman.db";
/// A pointer file holds one path; what is longer is something else.
const POINTER_BYTES: u64 = 4096;

/// A data directory that is being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Opened>, NotOpened>> + Send + 'a>>;

/// Opens a data directory without a server and serves its control socket in this process.
pub trait StandAlone: Sync {
    fn open<'a>(&'a self, data: &'a Path) -> Opening<'a>;

    /// Seals every stored secret with another master key; answers how many there were and whether the key in the data
    /// directory was replaced (otherwise it was given from outside).
    fn reseal<'a>(&'a self, data: &'a Path, key_file: &'a Path) -> Resealing<'a>;
}

/// Secrets that are being sealed anew.
pub type Resealing<'a> = Pin<Box<dyn Future<Output = Result<(usize, bool), NotOpened>> + Send + 'a>>;

/// An open data directory; it is given back by closing it.
pub trait Opened: Send {
    fn close(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Why a data directory was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// A server runs on it.
    Locked,
    /// A sentence with what to do.
    Failed(String),
}

/// A Roundsman that answers.
pub(super) struct Connected {
    pub client: Client,
    /// There for as long as the command runs, when no server is.
    pub opened: Option<Box<dyn Opened>>,
}

impl Connected {
    const fn running(client: Client) -> Self {
        Self { client, opened: None }
    }
}

/// Where a Roundsman is to be looked for.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Url(String),
    Data(PathBuf),
    /// The data directory that the pointer names, else the default one.
    ThisMachine,
}

/// Flags win over the environment, and in each an address wins over a directory.
fn place(global: &Global, environment: config::Environment<'_>) -> Result<Place, CliError> {
    if global.url.is_some() && global.data.is_some() {
        return Err(CliError::usage("--url and --data name two different places; use one of them"));
    }
    let named = |name: &str| environment(name).filter(|text| !text.is_empty());
    Ok(if let Some(url) = &global.url {
        Place::Url(url.clone())
    } else if let Some(data) = &global.data {
        Place::Data(data.clone())
    } else if let Some(url) = named("ROUNDSMAN_URL") {
        Place::Url(url)
    } else if let Some(data) = named("ROUNDSMAN_DATA") {
        Place::Data(PathBuf::from(data))
    } else {
        Place::ThisMachine
    })
}

/// The data directory that doctor looks at. None: the Roundsman is elsewhere.
pub(super) fn data_of(global: &Global) -> Result<Option<PathBuf>, CliError> {
    Ok(match place(global, ENVIRONMENT)? {
        Place::Url(_) => None,
        Place::Data(data) => Some(data),
        Place::ThisMachine => {
            let pointed = pointed_socket().and_then(|socket| socket.parent().map(Path::to_owned));
            Some(pointed.unwrap_or_else(|| data_directory(None, ENVIRONMENT)))
        }
    })
}

/// Whether neither a flag, the environment nor a running server says where the data is.
pub(super) fn is_undecided(global: &Global) -> Result<bool, CliError> {
    Ok(place(global, ENVIRONMENT)? == Place::ThisMachine && pointed_socket().is_none())
}

/// # Errors
/// [`CliError::Unreachable`] says where was looked and what to do; [`CliError::Usage`] for an address that cannot be meant.
pub(super) async fn connect(global: &Global, stand_alone: &dyn StandAlone) -> Result<Connected, CliError> {
    match place(global, ENVIRONMENT)? {
        Place::Url(url) => {
            let token = token(global)?;
            Ok(Connected::running(Client::to_url(&url, token, global.insecure_http)?))
        }
        Place::Data(data) => to_data(&data, stand_alone).await,
        Place::ThisMachine => {
            let pointed = pointed_socket();
            if let Some(socket) = &pointed
                && listening(socket)?
            {
                return Ok(Connected::running(Client::to_socket(socket)?));
            }
            // A server that was killed leaves its pointer; its data directory is still the one that is meant.
            let left = pointed.as_deref().and_then(Path::parent).filter(|data| data.join(DATABASE).exists());
            match left {
                Some(data) if std::env::var_os("ROUNDSMAN_DATA").is_none() => {
                    to_data(data, stand_alone).await
                }
                _ => to_data(&data_directory(None, ENVIRONMENT), stand_alone).await,
            }
        }
    }
}

async fn to_data(data: &Path, stand_alone: &dyn StandAlone) -> Result<Connected, CliError> {
    let socket = data.join(SOCKET);
    if listening(&socket)? {
        return Ok(Connected::running(Client::to_socket(&socket)?));
    }
    let shown = data.display();
    if !data.join(DATABASE).exists() {
        return Err(CliError::Unreachable(format!(
            "no Roundsman runs on {shown} and there is no data of one; start it with 'roundsman serve --data {shown}', \
             or say where it is with --data or --url"
        )));
    }
    match stand_alone.open(data).await {
        Ok(opened) => Ok(Connected { client: Client::to_socket(&socket)?, opened: Some(opened) }),
        Err(NotOpened::Locked) => Err(CliError::Unreachable(format!(
            "a Roundsman runs on {shown} but its control socket does not answer; \
             try again in a moment, or use --url with a token"
        ))),
        Err(NotOpened::Failed(message)) => Err(CliError::Failed(message)),
    }
}

/// Whether somebody listens on the socket.
///
/// # Errors
/// [`CliError::Unreachable`] when somebody may, and we may not talk to them.
fn listening(socket: &Path) -> Result<bool, CliError> {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => require_trusted(socket).map(|()| true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(CliError::Unreachable(format!(
            "{} may be used only by the user who runs Roundsman and by root; \
             run this as one of them, or use --url with a token",
            socket.display()
        ))),
        Err(_) => Ok(false),
    }
}

/// A socket that another user made could be anybody's: it would be given passwords and keys.
fn require_trusted(socket: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::MetadataExt as _;
    let uid = |path: &Path| std::fs::metadata(path).map(|meta| meta.uid());
    match (uid(socket), uid(Path::new("/proc/self"))) {
        (Ok(owner), Ok(me)) if owner == 0 || owner == me => Ok(()),
        // Root may use everybody's Roundsman.
        (Ok(_), Ok(0)) => Ok(()),
        _ => Err(CliError::Unreachable(format!(
            "{} belongs to another user, so nothing is sent to it; say with --data or --url which Roundsman you mean",
            socket.display()
        ))),
    }
}

fn pointed_socket() -> Option<PathBuf> {
    let mut text = String::new();
    let pointer = File::open(runtime_pointer(ENVIRONMENT)?).ok()?;
    pointer.take(POINTER_BYTES).read_to_string(&mut text).ok()?;
    let path = PathBuf::from(text.trim());
    path.is_absolute().then_some(path)
}

fn token(global: &Global) -> Result<Secret<String>, CliError> {
    let token = match &global.token {
        Some(token) => Some(Secret::new(token.clone())),
        None => config::secret(ENVIRONMENT, "ROUNDSMAN_TOKEN")
            .map_err(|error| CliError::usage(error.to_string()))?,
    };
    token.ok_or_else(|| {
        CliError::usage(
            "--url needs a token: run 'roundsman token create --role admin' on the machine of that Roundsman \
             and put it into ROUNDSMAN_TOKEN",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(url: Option<&str>, data: Option<&str>) -> Global {
        Global { url: url.map(str::to_owned), data: data.map(PathBuf::from), ..Global::default() }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_an_address_over_a_directory() {
        let both = |name: &str| match name {
            "ROUNDSMAN_URL" => Some("https://env".to_owned()),
            "ROUNDSMAN_DATA" => Some("/env".to_owned()),
            _ => None,
        };
        let nothing = |_: &str| None;
        assert_eq!(place(&global(None, Some("/flag")), &both).unwrap(), Place::Data("/flag".into()));
        assert_eq!(place(&global(None, None), &both).unwrap(), Place::Url("https://env".to_owned()));
        assert_eq!(place(&global(None, None), &nothing).unwrap(), Place::ThisMachine);
        assert!(place(&global(Some("https://a"), Some("/b")), &nothing).is_err());
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_not_mistaken_for_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET);
        assert!(!listening(&socket).unwrap());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(!listening(&socket).unwrap(), "left behind by a server that was killed");
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("live")).unwrap();
        assert!(listening(&dir.path().join("live")).unwrap());
    }
}
