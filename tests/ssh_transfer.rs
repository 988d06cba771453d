//! Files to and from real servers: what arrives, what is refused, and that nothing half-done stays behind.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use roundsman::ssh::transfer::{Progress, TransferError, Transferred, Upload};
use roundsman::ssh::{Connection, connect};
use support::sshd::Sshd;
use support::{eventually, in_time};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

async fn connection_to(sshd: &Sshd) -> Connection {
    in_time("a connection", connect(&sshd.target(), &mut |_| {})).await.unwrap()
}

fn to(path: &Path, size_bytes: usize) -> Upload {
    Upload { path: path.to_str().unwrap().to_owned(), size_bytes: size_bytes as u64, mode: None }
}

async fn upload(
    connection: &Connection,
    upload: &Upload,
    bytes: &[u8],
) -> Result<Transferred, TransferError> {
    let mut source = Cursor::new(bytes.to_vec());
    in_time("an upload", connection.upload(&mut source, upload, &mut |_| {})).await
}

async fn download(connection: &Connection, path: &Path) -> Result<(Vec<u8>, Transferred), TransferError> {
    let mut sink = Vec::new();
    let path = path.to_str().unwrap();
    let done = in_time("a download", connection.download(path, 1 << 30, &mut sink, &mut |_| {})).await?;
    Ok((sink, done))
}

/// Bytes that no tool takes for text, and that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    (directory, path)
}

/// Files of every awkward size go there and come back the same.
async fn there_and_back(sshd: &Sshd) {
    let connection = connection_to(sshd).await;
    let (directory, path) = place();
    for length in [0, 1, 65_535, 65_536, 512 * 1024, 512 * 1024 + 1, 5_000_000] {
        let bytes = noise(length);
        let sent = upload(&connection, &to(&path, length), &bytes).await.unwrap();
        assert_eq!(sent.size_bytes, length as u64);
        assert!(sent.hash_checked, "sha256sum is installed here");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{length}");
        let (back, received) = download(&connection, &path).await.unwrap();
        assert!(back == bytes, "{length} bytes came back changed");
        assert_eq!(received, sent);
    }
    assert_eq!(names(directory.path()), ["file"]);
}

#[tokio::test]
async fn files_go_up_and_come_down_unchanged_with_openssh() {
    there_and_back(&Sshd::start().await).await;
}

#[tokio::test]
async fn files_go_up_and_come_down_unchanged_with_dropbear() {
    there_and_back(&Sshd::dropbear().await).await;
}

#[tokio::test]
async fn a_server_with_neither_sftp_nor_scp_nor_any_tool_for_hashes_is_served_by_size() {
    // A PATH with the applets that the smallest BusyBox has.
    let tools = tempfile::tempdir().unwrap();
    for tool in ["cat", "wc", "rm", "mv", "chmod", "dd", "sh"] {
        std::os::unix::fs::symlink("/bin/busybox", tools.path().join(tool)).unwrap();
    }
    let script = format!("PATH={}; export PATH\neval \"$SSH_ORIGINAL_COMMAND\"", tools.path().display());
    let sshd = Sshd::with_login_shell(&script).await;
    let connection = connection_to(&sshd).await;
    let (directory, path) = place();
    let bytes = noise(1_000_000);
    let sent = upload(&connection, &to(&path, bytes.len()), &bytes).await.unwrap();
    assert!(!sent.hash_checked);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let (back, received) = download(&connection, &path).await.unwrap();
    assert!(back == bytes && !received.hash_checked);
    assert_eq!(names(directory.path()), ["file"]);
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_a_given_mode_wins() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let (_directory, path) = place();
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    upload(&connection, &to(&path, 3), b"one").await.unwrap();
    assert_eq!(mode(), 0o644);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    upload(&connection, &to(&path, 3), b"two").await.unwrap();
    assert_eq!((mode(), fs::read(&path).unwrap()), (0o750, b"two".to_vec()));
    upload(&connection, &Upload { mode: Some(0o600), ..to(&path, 5) }, b"three").await.unwrap();
    assert_eq!(mode(), 0o600);
}

#[tokio::test]
async fn an_upload_through_a_symbolic_link_replaces_what_it_points_to() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let (directory, path) = place();
    fs::write(&path, "old").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    upload(&connection, &to(&link, 3), b"new").await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[tokio::test]
async fn names_that_a_shell_would_read_are_only_names() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let directory = tempfile::tempdir().unwrap();
    for name in ["a b", "it's", "$(touch owned)", "new\nline", "-rf", "*", "ünï", "`id`", "\\"] {
        let path = directory.path().join(name);
        upload(&connection, &to(&path, 4), b"text").await.unwrap();
        let (back, _) = download(&connection, &path).await.unwrap();
        assert_eq!(back, b"text", "{name}");
        fs::remove_file(&path).unwrap();
        assert!(names(directory.path()).is_empty(), "{name}");
    }
    // Relative paths start in the login directory.
    let home = sshd.home();
    upload(&connection, &Upload { path: "-dash".to_owned(), size_bytes: 1, mode: None }, b"x").await.unwrap();
    let stored = home.join("-dash");
    let found = if stored.exists() { stored } else { PathBuf::from("/root/-dash") };
    assert_eq!(fs::read(&found).unwrap(), b"x");
    fs::remove_file(found).unwrap();
}

#[tokio::test]
async fn what_cannot_be_stored_or_read_is_said_and_leaves_nothing_behind() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let (directory, path) = place();
    fs::write(&path, "old").unwrap();
    let refused = |path: &Path| {
        let upload = to(path, 3);
        let connection = connection.clone();
        async move {
            let mut source = Cursor::new(b"new".to_vec());
            in_time("an upload", connection.upload(&mut source, &upload, &mut |_| {})).await.unwrap_err()
        }
    };
    assert!(matches!(refused(directory.path()).await, TransferError::Directory { .. }));
    assert!(matches!(refused(&path.join("below-a-file")).await, TransferError::NoDirectory { .. }));
    assert!(matches!(
        refused(&directory.path().join("none").join("file")).await,
        TransferError::NoDirectory { .. }
    ));
    let error = refused(Path::new("/proc/roundsman")).await;
    assert!(matches!(error, TransferError::Refused { .. }), "{error}");
    assert!(matches!(download(&connection, directory.path()).await, Err(TransferError::Directory { .. })));
    let missing = download(&connection, &directory.path().join("none")).await;
    assert!(matches!(missing, Err(TransferError::Missing { .. })));
    let device = download(&connection, Path::new("/dev/zero")).await;
    assert!(matches!(device, Err(TransferError::Refused { .. })), "{device:?}");
    let mut sink = Vec::new();
    let limited = connection.download(path.to_str().unwrap(), 2, &mut sink, &mut |_| {}).await;
    assert!(matches!(limited, Err(TransferError::TooLarge { size_bytes: 3, limit_bytes: 2, .. })));
    let short = upload(&connection, &to(&path, 10), b"short").await;
    assert!(matches!(short, Err(TransferError::Truncated { arrived_bytes: 5, size_bytes: 10 })), "{short:?}");
    let long = upload(&connection, &to(&path, 2), b"long").await;
    assert!(matches!(long, Err(TransferError::Here { .. })), "{long:?}");
    eventually("no temporary file stays", || names(directory.path()) == ["file"]).await;
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[tokio::test]
async fn a_full_disk_is_said_in_the_servers_words_and_the_old_file_stays() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    let bytes = noise(8 * 1024 * 1024);
    let error = upload(&connection, &to(&path, bytes.len()), &bytes).await;
    let left = (fs::read(&path).unwrap(), names(directory.path()));
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
    let Err(TransferError::Refused { said }) = error else { panic!("{error:?}") };
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(left, (b"old".to_vec(), vec!["file".to_owned()]));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_no_temporary_file() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let (directory, path) = place();
    fs::write(&path, "old").unwrap();
    let there = directory.path().to_owned();
    // The caller goes away.
    let (mut give, mut source) = tokio::io::duplex(1024);
    let half = to(&path, 1_000_000);
    let running = {
        let (connection, half) = (connection.clone(), half.clone());
        tokio::spawn(async move { connection.upload(&mut source, &half, &mut |_| {}).await })
    };
    give.write_all(&noise(1000)).await.unwrap();
    eventually("the temporary file is there", || names(&there).len() == 2).await;
    running.abort();
    eventually("and goes", || names(&there) == ["file"]).await;
    // The connection breaks.
    let (mut give, mut source) = tokio::io::duplex(1024);
    let running = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.upload(&mut source, &half, &mut |_| {}).await })
    };
    give.write_all(&noise(1000)).await.unwrap();
    eventually("the temporary file is there", || names(&there).len() == 2).await;
    connection.kill();
    let error = in_time("the upload ends", async {
        // The source never ends; only the lost connection can end it.
        give.write_all(&noise(200_000)).await.ok();
        running.await.unwrap().unwrap_err()
    })
    .await;
    assert!(matches!(error, TransferError::Ssh(_) | TransferError::BrokenOff { .. }), "{error:?}");
    eventually("and goes", || names(&there) == ["file"]).await;
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[tokio::test]
async fn progress_goes_up_to_the_whole_and_other_commands_are_not_held_up() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let (_directory, path) = place();
    let bytes = noise(20_000_000);
    let mut heard: Vec<Progress> = Vec::new();
    let mut source = Cursor::new(bytes.clone());
    let request = to(&path, bytes.len());
    let mut hear = |progress| heard.push(progress);
    let (sent, output) = in_time("both", async {
        tokio::join!(
            connection.upload(&mut source, &request, &mut hear),
            connection.exec(roundsman::ssh::ExecRequest::new("echo beside"))
        )
    })
    .await;
    sent.unwrap();
    assert_eq!(output.unwrap().stdout, b"beside\n");
    assert!(heard.windows(2).all(|pair| pair[0].done_bytes <= pair[1].done_bytes));
    let total_bytes = bytes.len() as u64;
    assert_eq!(heard.last(), Some(&Progress { done_bytes: total_bytes, total_bytes }));
    let (back, _) = download(&connection, &path).await.unwrap();
    assert!(back == bytes);
}
