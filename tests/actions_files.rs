//! Files put on real servers: stored whole or not at all, the old one kept, and back where the new one was not good.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use roundsman::fleet::{ActionLoginEdit, LoginEdit, NewServer};
use roundsman::model::{Role, Secret};
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::in_time;
use support::sshd::{PASSWORD, Sshd};
use tempfile::TempDir;

const OPERATIONS: &str = "/api/v1/fleet/operations";

/// One server, somebody who acts on it, and a directory on it.
struct Scene {
    app: TestApp,
    admin: Who,
    directory: TempDir,
    _sshd: Sshd,
}

impl Scene {
    async fn start() -> Self {
        Self::on(Sshd::start().await).await
    }

    async fn on(sshd: Sshd) -> Self {
        let app = TestApp::start().await;
        app.with_server("web-1", &sshd).await;
        let admin = app.token(Role::Admin).await;
        Self { app, admin, directory: tempfile::tempdir().unwrap(), _sshd: sshd }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        names(self.directory.path())
    }

    async fn act(&self, kind: &str, parameters: Value) -> Value {
        let body = json!({ "operation_type": kind, "server_ids": ["web-1"], "parameters": parameters });
        act(&self.app, &self.admin, &body).await
    }

    async fn begun(&self, kind: &str, parameters: Value) -> Value {
        let body = json!({ "operation_type": kind, "server_ids": ["web-1"], "parameters": parameters });
        self.app.post(OPERATIONS).by(&self.admin).json(&body).send().await.expect(202)
    }
}

async fn act(app: &TestApp, who: &Who, body: &Value) -> Value {
    let begun = app.post(OPERATIONS).by(who).json(body).send().await.expect(202);
    ended(app, who, &begun).await
}

async fn ended(app: &TestApp, who: &Who, begun: &Value) -> Value {
    let path = format!("{OPERATIONS}/{}", begun["id"].as_str().unwrap());
    in_time("the end of an operation", async {
        loop {
            let now = app.get(&path).by(who).send().await.expect(200);
            if !matches!(now["status"].as_str(), Some("pending" | "running")) {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An old file that nobody would make by accident: its own mode and owner.
fn old_file(path: &Path) {
    fs::write(path, b"old \xff\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(path, Some(12), Some(34)).unwrap();
}

/// What a file is to those who read it and to the file system.
fn identity(path: &Path) -> (Vec<u8>, u32, u32, u32, u64, i64) {
    let found = fs::metadata(path).unwrap();
    let rights = (found.mode(), found.uid(), found.gid());
    (fs::read(path).unwrap(), rights.0, rights.1, rights.2, found.ino(), found.mtime())
}

#[tokio::test]
async fn an_upload_is_stored_whole_and_the_file_before_stays_beside_it_with_its_rights() {
    let scene = Scene::start().await;
    let path = scene.path("data");
    let bytes = json!({ "path": path, "content_base64": "AP8KYWJj", "mode": "0600" });
    let first = scene.act("upload_file", bytes.clone()).await;
    assert_eq!(first["status"], "completed", "{first}");
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"\0\xff\nabc".to_vec(), 0o600));
    let again = scene.act("upload", bytes).await;
    assert!(again["results"][0]["stdout"].as_str().unwrap().contains("as wanted already"), "{again}");
    assert_eq!(scene.names(), ["data"]);

    old_file(&path);
    let before = identity(&path);
    let second = scene.act("upload_file", json!({ "path": path, "content": "new\n" })).await;
    assert_eq!(second["status"], "completed", "{second}");
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new\n".to_vec(), 0o640));
    assert_eq!((fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid()), (12, 34));
    assert_eq!(identity(&scene.path("data.roundsman-old")), before);
    assert_eq!(scene.names(), ["data", "data.roundsman-old"]);

    let command = second["results"][0]["command"].as_str().unwrap();
    assert!(command.starts_with("sh put.sh --path ") && command.contains("--bytes 4 "), "{command}");
    let audit = scene.app.get("/api/v1/audit").by(&scene.admin).send().await.expect(200);
    let entries = audit["items"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["action"] == "upload_file").unwrap();
    assert!(entry["detail"].as_str().unwrap().contains("--sha256"), "{entry}");
}

#[tokio::test]
async fn where_the_validation_fails_the_old_file_is_back_byte_for_byte_with_mode_and_owner() {
    let scene = Scene::start().await;
    let path = scene.path("app.conf");
    old_file(&path);
    let before = identity(&path);
    let parameters = json!({
        "path": path, "content": "new\n", "mode": "0644",
        "validate": format!("cat {0}; stat -c %a {0}; echo not good >&2; exit 9", path.display()),
        "reload": format!("touch {}", scene.path("reloaded").display()),
    });
    let failed = scene.act("update_configuration", parameters).await;
    let result = &failed["results"][0];
    assert_eq!((&failed["status"], &result["exit_status"]), (&json!("failed"), &json!(5)), "{failed}");
    assert_eq!(result["error"], "the validation failed with exit status 9; the old file is back.");
    let printed = result["stdout"].as_str().unwrap();
    assert!(printed.contains("+new\n") && printed.contains("\nnew\n644\nnot good\n"), "{printed}");
    assert_eq!(identity(&path), before);
    assert_eq!(scene.names(), ["app.conf"], "neither reloaded nor anything left");

    let fresh = scene.path("fresh.conf");
    let parameters = json!({ "path": fresh, "content": "new\n", "validate": "false" });
    let failed = scene.act("config", parameters).await;
    assert!(failed["results"][0]["error"].as_str().unwrap().contains("taken away again"), "{failed}");
    assert_eq!(scene.names(), ["app.conf"]);
}

#[tokio::test]
async fn where_the_reload_fails_the_old_file_is_back_and_was_reloaded() {
    let scene = Scene::start().await;
    let (path, log) = (scene.path("app.conf"), scene.path("log"));
    old_file(&path);
    let before = identity(&path);
    let reload = format!("cat {0} >>{1}; ! grep -q new {0}", path.display(), log.display());
    let parameters = json!({ "path": path, "content": "new\n", "validate": "true", "reload": reload });
    let failed = scene.act("update_config", parameters).await;
    let result = &failed["results"][0];
    assert_eq!(
        (&failed["operation_type"], &result["exit_status"]),
        (&json!("update_configuration"), &json!(6))
    );
    assert!(result["error"].as_str().unwrap().contains("the old file is back and was reloaded"), "{result}");
    assert_eq!(fs::read(&log).unwrap(), b"new\nold \xff\n");
    assert_eq!(identity(&path), before);
}

#[tokio::test]
async fn a_configuration_that_is_good_is_stored_reloaded_and_can_be_sent_again() {
    let scene = Scene::start().await;
    let (path, log) = (scene.path("app.conf"), scene.path("log"));
    old_file(&path);
    let parameters = json!({
        "path": path, "content": "server = {{ name }}\n", "template": true,
        "validate": format!("grep -q 'server = web-1' {}", path.display()),
        "reload": format!("echo reloaded >>{}", log.display()),
    });
    let done = scene.act("update_configuration", parameters).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(fs::read(&path).unwrap(), b"server = web-1\n");
    assert_eq!(fs::read(&log).unwrap(), b"reloaded\n");
    assert_eq!(done["parameters"]["content"], "server = {{ name }}\n");

    let retry = format!("{OPERATIONS}/{}/retry", done["id"].as_str().unwrap());
    let states = json!({ "states": ["succeeded"] });
    let begun = scene.app.post(&retry).by(&scene.admin).json(&states).send().await.expect(202);
    let again = ended(&scene.app, &scene.admin, &begun).await;
    assert!(again["results"][0]["stdout"].as_str().unwrap().contains("as wanted already"), "{again}");
    assert_eq!(fs::read(&log).unwrap(), b"reloaded\n", "what is as wanted is not reloaded");
}

#[tokio::test]
async fn what_ends_in_the_middle_of_the_validation_leaves_the_old_file() {
    let scene = Scene::start().await;
    let path = scene.path("app.conf");
    old_file(&path);
    let before = identity(&path);
    let waiting = format!("touch {}; sleep 600", scene.path("validating").display());
    let parameters = json!({ "path": path, "content": "new\n", "validate": waiting });
    let begun = scene.begun("update_configuration", parameters).await;
    in_time("the validation runs", async {
        while !scene.path("validating").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
    let cancel = format!("{OPERATIONS}/{}/cancel", begun["id"].as_str().unwrap());
    scene.app.post(&cancel).by(&scene.admin).send().await.expect(202);
    assert_eq!(ended(&scene.app, &scene.admin, &begun).await["status"], "cancelled");
    in_time("the old file is back", async {
        while scene.names() != ["app.conf", "validating"] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(identity(&path), before);
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_old_file_stays() {
    let scene = Scene::start().await;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(scene.directory.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    let path = scene.path("app.conf");
    old_file(&path);
    let before = identity(&path);
    let parameters = json!({ "path": path, "content": "x".repeat(700_000) });
    let failed = scene.act("upload_file", parameters).await;
    let (after, left) = (identity(&path), scene.names());
    assert!(Command::new("umount").arg(scene.directory.path()).status().unwrap().success());
    let said = failed["results"][0]["error"].as_str().unwrap();
    assert!(said.contains("No space left on device. Nothing was changed."), "{said}");
    assert_eq!((after, left), (before, vec!["app.conf".to_owned()]));
}

#[tokio::test]
async fn links_and_directories_at_the_path_are_refused_by_name() {
    let scene = Scene::start().await;
    old_file(&scene.path("real"));
    let before = identity(&scene.path("real"));
    symlink("real", scene.path("link")).unwrap();
    fs::create_dir(scene.path("there")).unwrap();
    fs::create_dir(scene.path("kept")).unwrap();
    fs::create_dir(scene.path("kept/app.conf.roundsman-old")).unwrap();
    for (name, part) in [
        ("link", "is a symbolic link to real; name the file itself"),
        ("there", "is a directory"),
        ("missing/file", "there is no directory"),
        ("kept/app.conf", "is a directory, so the old file cannot be kept"),
    ] {
        let failed = scene.act("upload_file", json!({ "path": scene.path(name), "content": "new\n" })).await;
        let said = failed["results"][0]["error"].as_str().unwrap();
        assert!(said.contains(part) && said.contains("Nothing was changed."), "{name}: {said}");
    }
    assert_eq!(identity(&scene.path("real")), before);
    assert_eq!(scene.names(), ["kept", "link", "real", "there"]);
}

#[tokio::test]
async fn without_the_right_it_is_refused_and_with_sudo_owner_and_mode_stay() {
    let sshd = Sshd::with_password("").await;
    let app = TestApp::start().await;
    let secret = || Secret::new(PASSWORD.to_owned());
    app.add(NewServer {
        name: Some("web-1".to_owned()),
        action_login: Some(ActionLoginEdit {
            username: Some("deploy".to_owned()),
            login: LoginEdit { password: Some(secret()), ..LoginEdit::default() },
        }),
        sudo_password: Some(secret()),
        ..of_sshd(&sshd)
    })
    .await;
    let admin = app.token(Role::Admin).await;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("app.conf");
    old_file(&path);
    let before = identity(&path);
    let body = |sudo: bool| {
        let parameters = json!({ "path": path, "content": "new\n", "sudo": sudo, "validate": "id -un" });
        json!({ "operation_type": "update_configuration", "server_ids": ["web-1"], "parameters": parameters })
    };
    let refused = act(&app, &admin, &body(false)).await;
    let said = refused["results"][0]["error"].as_str().unwrap();
    assert!(said.contains("Permission denied. Nothing was changed."), "{said}");
    assert_eq!(identity(&path), before);
    let done = act(&app, &admin, &body(true)).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert!(done["results"][0]["stdout"].as_str().unwrap().contains("\nroot\n"), "{done}");
    assert!(done["results"][0]["command"].as_str().unwrap().starts_with("sudo sh put.sh "), "{done}");
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), mode(&path)), (12, 34, 0o640));

    // In a directory of one's own a foreign file may be replaced, but not given back to its owner.
    let own = directory.path().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(54321), Some(54321)).unwrap();
    let path = own.join("app.conf");
    old_file(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let parameters = json!({ "path": path, "content": "new\n" });
    let body = json!({ "operation_type": "upload_file", "server_ids": ["web-1"], "parameters": parameters });
    let refused = act(&app, &admin, &body).await;
    assert!(refused["results"][0]["error"].as_str().unwrap().contains("that needs root"), "{refused}");
    assert_eq!(
        (fs::read(&path).unwrap(), names(&own)),
        (b"old \xff\n".to_vec(), vec!["app.conf".to_owned()])
    );
}

#[tokio::test]
async fn a_template_that_does_not_render_fails_its_server_before_anything_is_sent() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    for (name, region) in [("web-1", Some("eu")), ("web-2", None)] {
        let region = region.map(ToOwned::to_owned);
        app.add(NewServer { name: Some(name.to_owned()), region, ..of_sshd(&sshd) }).await;
    }
    let admin = app.token(Role::Admin).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("motd");
    let parameters = json!({ "path": path, "content": "{{ name }} in {{ region }}\n" });
    let body = |kind: &str, dry_run: bool| json!({ "operation_type": kind, "server_ids": ["web-1", "web-2"], "parameters": parameters, "dry_run": dry_run });
    let planned = app.post(OPERATIONS).by(&admin).json(&body("template", true)).send().await.expect(200);
    let targets = planned["targets"].as_array().unwrap();
    assert!(targets[0]["command"].is_string() && targets[1]["error"].is_string(), "{planned}");
    let done = act(&app, &admin, &body("upload_template", false)).await;
    assert_eq!(done["status"], "partial", "{done}");
    let failed =
        done["results"].as_array().unwrap().iter().find(|one| one["server_name"] == "web-2").unwrap();
    assert!(failed["error"].as_str().unwrap().contains("does not render here: line 1"), "{failed}");
    assert!(failed["command"].is_null() && failed["started_at"].is_null(), "nothing was sent: {failed}");
    assert_eq!(fs::read(&path).unwrap(), b"web-1 in eu\n");

    let broken = json!({ "path": path, "content": "{% set a = 1 %}" });
    let body = json!({ "operation_type": "template", "server_ids": ["web-1"], "parameters": broken });
    let refused = app.post(OPERATIONS).by(&admin).json(&body).send().await.expect(422);
    assert_eq!(refused["field"], "content", "{refused}");
}

#[tokio::test]
async fn a_comparison_shows_what_differs_and_changes_nothing() {
    let scene = Scene::start().await;
    let path = scene.path("app.conf");
    fs::write(&path, "a\nb\n").unwrap();
    let before = identity(&path);
    let parameters = json!({
        "path": path, "content": "a\nc\n", "mode": "0600", "compare": true,
        "validate": format!("touch {}", scene.path("validated").display()),
    });
    let done = scene.act("update_configuration", parameters).await;
    let printed = done["results"][0]["stdout"].as_str().unwrap();
    assert_eq!(done["status"], "completed", "{done}");
    assert!(printed.contains("\n-b\n+c\n") && printed.contains("rights: 644 0:0 -> 600 0:0\n"), "{printed}");
    assert!(done["title"].as_str().unwrap().starts_with("Compare "), "{done}");
    assert_eq!((identity(&path), scene.names()), (before, vec!["app.conf".to_owned()]));
}

#[tokio::test]
async fn what_is_not_to_be_shown_is_in_no_record_and_cannot_be_sent_again() {
    let scene = Scene::start().await;
    let path = scene.path("secret.conf");
    fs::write(&path, "hunter1\n").unwrap();
    let parameters = json!({ "path": path, "content": "hunter2\n", "show_diff": false });
    let done = scene.act("upload_file", parameters).await;
    assert_eq!(done["status"], "completed", "{done}");
    let mut kept = String::new();
    for place in [OPERATIONS, "/api/v1/fleet/servers/web-1/commands", "/api/v1/audit"] {
        kept += &scene.app.get(place).by(&scene.admin).send().await.text();
    }
    assert!(!kept.contains("hunter") && !done.to_string().contains("hunter"), "{kept}");
    let retry = format!("{OPERATIONS}/{}/retry", done["id"].as_str().unwrap());
    let states = json!({ "states": ["succeeded"] });
    let refused = scene.app.post(&retry).by(&scene.admin).json(&states).send().await;
    assert!(refused.text().contains("begin it anew"), "{}", refused.text());
}

#[tokio::test]
async fn a_megabyte_goes_through_and_more_is_refused_before_anything_is_sent() {
    let scene = Scene::start().await;
    let path = scene.path("large");
    // As JSON it takes twice its size.
    let content = "\"\n".repeat(512 * 1024);
    let done =
        scene.act("upload_file", json!({ "path": path, "content": content, "show_diff": false })).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(fs::read(&path).unwrap(), content.as_bytes());
    let parameters = json!({ "path": path, "content": format!("{content}x") });
    let body = json!({ "operation_type": "upload_file", "server_ids": ["web-1"], "parameters": parameters });
    let refused = scene.app.post(OPERATIONS).by(&scene.admin).json(&body).send().await.expect(422);
    assert_eq!(refused["field"], "content");
}

#[tokio::test]
async fn dropbear_hosts_get_files_as_well() {
    let scene = Scene::on(Sshd::dropbear().await).await;
    let path = scene.path("app.conf");
    old_file(&path);
    let before = identity(&path);
    let parameters = json!({ "path": path, "content": "new\n", "validate": "false" });
    let failed = scene.act("update_configuration", parameters).await;
    assert_eq!(failed["results"][0]["exit_status"], 5, "{failed}");
    assert_eq!(identity(&path), before);
    let done = scene.act("upload_file", json!({ "path": path, "content": "new\n" })).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
}

#[tokio::test]
async fn viewers_put_no_files_anywhere_and_operators_do() {
    let scene = Scene::start().await;
    let path = scene.path("file");
    let parameters = json!({ "path": path, "content": "new\n" });
    let body = json!({ "operation_type": "upload_file", "server_ids": ["web-1"], "parameters": parameters });
    let viewer = scene.app.token(Role::Viewer).await;
    assert_eq!(scene.app.post(OPERATIONS).by(&viewer).json(&body).send().await.status, 403);
    assert!(scene.names().is_empty());
    let operator = scene.app.token(Role::Operator).await;
    assert_eq!(act(&scene.app, &operator, &body).await["status"], "completed");
}
