//! A file to a server and back, over the API and the command line, against a real daemon.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use program::{Program, text};
use roundsman::model::{Event, Role};
use support::app::TestApp;
use support::in_time;
use support::sshd::Sshd;

fn file_of(server: &str, path: &str) -> String {
    let path = path.replace('/', "%2F").replace(' ', "%20");
    format!("/api/v1/fleet/servers/{server}/file?path={path}")
}

#[tokio::test]
async fn a_file_goes_up_and_down_over_the_api_with_its_progress_and_an_entry_in_the_audit_log() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a file");
    let address = file_of("web-1", path.to_str().unwrap());
    let body = vec![7_u8; 3_000_000];
    let mut events = app.services.fleet.subscribe();
    let put = app
        .call("PUT", &format!("{address}&mode=640"))
        .by(&admin)
        .header("content-length", &body.len().to_string())
        .body("application/octet-stream", body.clone());
    let done = put.send().await.expect(200);
    assert_eq!((done["size_bytes"].as_u64(), done["hash_checked"].as_bool()), (Some(3_000_000), Some(true)));
    assert_eq!(fs::read(&path).unwrap(), body);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    let last = in_time("the last event of the upload", async {
        loop {
            if let Event::Transfer { done_bytes, total_bytes, .. } = events.recv().await.unwrap()
                && done_bytes == total_bytes
            {
                return total_bytes;
            }
        }
    });
    assert_eq!(last.await, 3_000_000);
    let got = app.get(&address).by(&admin).send().await;
    assert_eq!(got.status, 200);
    assert_eq!(got.body.as_ref(), body);
    assert!(got.header("content-disposition").contains("a file"));
    let trail = app.services.auth.audit(&roundsman::model::Caller::roundsman(), 20, 0).await.unwrap();
    let uploaded = trail.iter().find(|entry| entry.action == "file.upload").unwrap();
    assert!(uploaded.detail.contains("3000000 bytes"), "{}", uploaded.detail);
    assert_eq!(sshd.logins(), 1, "files go over the connection of the readings");
}

#[tokio::test]
async fn files_are_for_administrators_and_what_cannot_be_moved_is_said() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let operator = app.token(Role::Operator).await;
    let address = file_of("web-1", "/etc/hostname");
    app.get(&address).by(&operator).send().await.expect(403);
    app.call("PUT", &address).by(&operator).body("text/plain", "x").send().await.expect(403);
    app.get(&file_of("web-1", "/no/such/file")).by(&admin).send().await.expect(404);
    app.get(&file_of("nobody", "/etc/hostname")).by(&admin).send().await.expect(404);
    app.get("/api/v1/fleet/servers/web-1/file").by(&admin).send().await.expect(422);
    let unsized_body = app.call("PUT", &address).by(&admin).body("text/plain", "x").send().await;
    unsized_body.expect(422);
    let nowhere = app
        .call("PUT", &file_of("web-1", "/no/such/directory/file"))
        .by(&admin)
        .header("content-length", "1")
        .body("text/plain", "x")
        .send()
        .await
        .expect(422);
    assert!(nowhere["detail"].as_str().unwrap().contains("does not exist"), "{nowhere}");
}

#[tokio::test]
async fn cp_copies_both_ways_and_leaves_no_half_file_here() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    let key = program.file("key", sshd.client_key().expose());
    let server = format!("root@127.0.0.1:{}", sshd.port());
    program.run(&["add", &server, "--name", "web-1", "--identity", text(&key), "--accept-new"]).well();
    let place = tempfile::tempdir().unwrap();
    let (here, there, back) =
        (program.file("here.txt", "some text\n"), place.path().join("there"), place.path().join("back"));
    let done = program.run(&["cp", text(&here), &format!("web-1:{}", there.display())]).well();
    assert!(done.stdout.contains("10 bytes"), "{}", done.stdout);
    assert_eq!(fs::read_to_string(&there).unwrap(), "some text\n");
    program.run(&["cp", &format!("web-1:{}", there.display()), text(&back)]).well();
    assert_eq!(fs::read_to_string(&back).unwrap(), "some text\n");
    // Into a directory the file keeps its name.
    program.run(&["cp", text(&here), &format!("web-1:{}/", place.path().display())]).well();
    assert!(place.path().join(here.file_name().unwrap()).exists());
    let lost = place.path().join("lost");
    program.run(&["cp", "web-1:/no/such/file", text(&lost)]).refused(1, &["no file"]);
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("lost")), "{names:?}");
    program.run(&["cp", "one", "two"]).refused(2, &["SERVER:PATH"]);
}
