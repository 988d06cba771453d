//! The keys that Roundsman keeps: made, imported in every form, named, certified, used, deleted; never given back.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::path::Path;
use std::process::Command;

use roundsman::model::{Caller, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::Sshd;

const KEYS: &str = "/api/v1/keys";
const PASSPHRASE: &str = "open sesame";

fn keygen(folder: &Path, arguments: &[&str]) {
    let done = Command::new("ssh-keygen").arg("-q").args(arguments).current_dir(folder).status().unwrap();
    assert!(done.success(), "{arguments:?}");
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Algorithm and key, without the comment.
fn material(line: &str) -> String {
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

async fn create(app: &TestApp, who: &Who, name: &str) -> Value {
    app.post(KEYS).by(who).json(&json!({ "name": name })).send().await.expect(201)
}

async fn import(app: &TestApp, who: &Who, body: &Value) -> (u16, Value) {
    let answer = app.post("/api/v1/keys/import").by(who).json(body).send().await;
    (answer.status, answer.json())
}

async fn audited(app: &TestApp) -> Vec<(String, String)> {
    let entries = app.services.auth.audit(&Caller::roundsman(), 100, 0).await.unwrap();
    entries.into_iter().map(|entry| (entry.action, entry.subject)).collect()
}

#[tokio::test]
async fn keys_are_made_listed_renamed_and_deleted_and_each_change_is_audited() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let made = create(&app, &admin, "web 2026").await;
    assert_eq!((made["algorithm"].as_str(), made["logins"].as_u64()), (Some("ssh-ed25519"), Some(0)));
    assert!(made["fingerprint"].as_str().unwrap().starts_with("SHA256:"));
    let ecdsa = json!({ "name": "old boxes", "kind": "ecdsa" });
    let ecdsa = app.post(KEYS).by(&admin).json(&ecdsa).send().await.expect(201);
    assert_eq!(
        (ecdsa["algorithm"].as_str(), ecdsa["bits"].as_u64()),
        (Some("ecdsa-sha2-nistp256"), Some(256))
    );
    let listed = app.get(KEYS).by(&admin).send().await.expect(200);
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|k| k["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "old boxes", "web 2026"], "the default first");

    let taken = app.post(KEYS).by(&admin).json(&json!({ "name": "web 2026" })).send().await.expect(409);
    assert!(taken["detail"].as_str().unwrap().contains("a key named 'web 2026'"), "{taken}");
    for bad in ["", "a/b", "two\nlines", "01900000-0000-7000-8000-000000000001"] {
        let refused = app.post(KEYS).by(&admin).json(&json!({ "name": bad })).send().await.expect(422);
        assert_eq!(refused["field"], "name", "{bad:?}");
    }
    let kind = json!({ "name": "x", "kind": "dsa" });
    assert!(
        app.post(KEYS).by(&admin).json(&kind).send().await.expect(422)["detail"]
            .as_str()
            .unwrap()
            .contains("ed25519")
    );

    let renamed = app.call("PATCH", "/api/v1/keys/web%202026").by(&admin).json(&json!({ "name": "web" }));
    assert_eq!(renamed.send().await.expect(200)["name"], "web");
    let shown = app.get("/api/v1/keys/web").by(&admin).send().await.expect(200);
    let install = shown["install_command"].as_str().unwrap();
    assert!(install.contains("authorized_keys") && install.contains(made["public_key"].as_str().unwrap()));
    app.call("DELETE", "/api/v1/keys/web").by(&admin).send().await.expect(204);
    app.get("/api/v1/keys/web").by(&admin).send().await.expect(404);
    let audited = audited(&app).await;
    for (action, subject) in [
        ("key.create", "web 2026"),
        ("key.create", "old boxes"),
        ("key.rename", "web 2026"),
        ("key.delete", "web"),
    ] {
        assert!(
            audited.contains(&(action.to_owned(), subject.to_owned())),
            "{action} {subject}: {audited:?}"
        );
    }
}

#[tokio::test]
async fn private_keys_of_every_usual_form_are_imported() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let admin = app.token(Role::Admin).await;
    let forms: [(&str, &[&str], &str); 9] = [
        ("openssh", &["-t", "ed25519"], ""),
        ("openssh-locked", &["-t", "ed25519"], PASSPHRASE),
        ("openssh-ecdsa", &["-t", "ecdsa", "-b", "384"], PASSPHRASE),
        ("pkcs1", &["-t", "rsa", "-b", "2048", "-m", "PEM"], ""),
        ("pkcs1-locked", &["-t", "rsa", "-b", "2048", "-m", "PEM"], PASSPHRASE),
        ("sec1", &["-t", "ecdsa", "-b", "256", "-m", "PEM"], ""),
        ("pkcs8-rsa", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"], ""),
        ("pkcs8-ecdsa", &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"], ""),
        ("pkcs8-locked", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"], PASSPHRASE),
    ];
    for (name, arguments, passphrase) in forms {
        keygen(dir.path(), &[arguments, &["-C", name, "-N", passphrase, "-f", name]].concat());
        let text = read(dir.path(), name);
        let mut body = json!({ "name": name, "private_key": text });
        if !passphrase.is_empty() {
            let (status, refused) = import(&app, &admin, &body).await;
            assert_eq!((status, &refused["field"]), (422, &json!("private_key")), "{name}: {refused}");
            assert!(refused["detail"].as_str().unwrap().contains("passphrase"), "{name}: {refused}");
            body["passphrase"] = json!("open barley");
            let (status, refused) = import(&app, &admin, &body).await;
            assert_eq!(status, 422, "{name}: {refused}");
            body["passphrase"] = json!(passphrase);
        }
        let (status, kept) = import(&app, &admin, &body).await;
        assert_eq!(status, 201, "{name}: {kept}");
        let public = read(dir.path(), &format!("{name}.pub"));
        assert_eq!(material(kept["public_key"].as_str().unwrap()), material(&public), "{name}");
        let (status, again) = import(&app, &admin, &body).await;
        assert_eq!(status, 422, "{name}");
        assert!(again["detail"].as_str().unwrap().contains(&format!("kept already, as '{name}'")), "{again}");
    }
    for (what, text) in [("nothing", ""), ("text", "hello"), ("public", &read(dir.path(), "openssh.pub"))] {
        let (status, refused) = import(&app, &admin, &json!({ "private_key": text })).await;
        assert_eq!((status, &refused["field"]), (422, &json!("private_key")), "{what}: {refused}");
    }
}

#[tokio::test]
async fn an_imported_key_is_named_after_its_file_or_comment_and_opens_a_server() {
    let (app, dir, sshd) = (TestApp::start().await, tempfile::tempdir().unwrap(), Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    keygen(dir.path(), &["-t", "ed25519", "-C", "anna@laptop", "-N", PASSPHRASE, "-f", "id_work"]);
    sshd.authorize(read(dir.path(), "id_work.pub").trim());
    let body = json!({ "private_key": read(dir.path(), "id_work"), "passphrase": PASSPHRASE });
    let (_, kept) = import(&app, &admin, &body).await;
    assert_eq!(kept["name"], "anna@laptop");
    let server = json!({
        "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port().get(), "identity": "anna@laptop",
        "host_key": sshd.host_key().to_string(),
    });
    app.post("/api/v1/fleet/servers").by(&admin).json(&server).send().await.expect(201);
    let used = app.get("/api/v1/keys/anna@laptop").by(&admin).send().await.expect(200);
    assert_eq!(used["used_by"][0]["server_name"], "web-1");
    assert_eq!(used["used_by"][0]["login"], "main");
    let refused = app.call("DELETE", "/api/v1/keys/anna@laptop").by(&admin).send().await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("in use on web-1"), "{refused}");
    let default = app.call("DELETE", "/api/v1/keys/default").by(&admin).send().await.expect(409);
    assert!(default["detail"].as_str().unwrap().contains("default"), "{default}");
}

#[tokio::test]
async fn another_default_key_changes_no_server_that_is_there() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    let first = app.services.fleet.default_public_key(Caller::roundsman().organization).await.unwrap();
    sshd.authorize(&first);
    let server = json!({
        "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port().get(), "interval_ms": 1000,
        "host_key": sshd.host_key().to_string(),
    });
    app.post("/api/v1/fleet/servers").by(&admin).json(&server).send().await.expect(201);
    let second = create(&app, &admin, "second").await;
    let made = app.call("PATCH", "/api/v1/keys/second").by(&admin).json(&json!({ "is_default": true }));
    assert_eq!(made.send().await.expect(200)["is_default"], true);
    let old = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!((&old["is_default"], &old["used_by"][0]["named"]), (&json!(false), &json!(true)));
    assert_eq!(app.state("web-1").way.login.key.unwrap().to_string(), old["id"].as_str().unwrap());
    let tested = app.post("/api/v1/fleet/servers/web-1/test").by(&admin).send().await.expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
    let now = app.services.fleet.default_public_key(Caller::roundsman().organization).await.unwrap();
    assert_eq!(now, second["public_key"].as_str().unwrap());
}

#[tokio::test]
async fn a_certificate_is_attached_shown_and_only_to_its_own_key() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let admin = app.token(Role::Admin).await;
    let key = create(&app, &admin, "certified").await;
    std::fs::write(dir.path().join("key.pub"), key["public_key"].as_str().unwrap()).unwrap();
    keygen(dir.path(), &["-t", "ed25519", "-N", "", "-f", "ca"]);
    let sign = |validity: &str| {
        keygen(
            dir.path(),
            &["-s", "ca", "-I", "roundsman", "-n", "root,deploy", "-z", "3", "-V", validity, "key.pub"],
        );
        json!({ "certificate": read(dir.path(), "key-cert.pub") })
    };
    let path = "/api/v1/keys/certified/certificate";
    let attached = app.call("PUT", path).by(&admin).json(&sign("-1d:+52w")).send().await.expect(200);
    let certificate = &attached["certificate"];
    assert_eq!((&certificate["key_id"], &certificate["serial"]), (&json!("roundsman"), &json!(3)));
    assert_eq!(certificate["principals"], json!(["root", "deploy"]));
    assert_eq!(certificate["validity"], "valid");
    let soon = app.call("PUT", path).by(&admin).json(&sign("-52w:+3d")).send().await.expect(200);
    assert_eq!(soon["certificate"]["validity"], "expires_soon");
    let expired = app.call("PUT", path).by(&admin).json(&sign("-2d:-1d")).send().await.expect(422);
    assert!(expired["detail"].as_str().unwrap().contains("ended at"), "{expired}");
    let other = "/api/v1/keys/default/certificate";
    let other = app.call("PUT", other).by(&admin).json(&sign("-1d:+1d")).send().await.expect(422);
    assert!(other["detail"].as_str().unwrap().contains("another key"), "{other}");
    let kept = app.get("/api/v1/keys/certified").by(&admin).send().await.expect(200);
    assert_eq!(kept["certificate"]["validity"], "expires_soon", "a refused one changes nothing");
    let removed = app.call("DELETE", path).by(&admin).send().await.expect(200);
    assert_eq!(removed["certificate"], Value::Null);
}

#[tokio::test]
async fn a_certified_key_opens_a_server_that_knows_only_its_authority_and_a_new_certificate_costs_no_login() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), &["-t", "ed25519", "-N", "", "-f", "ca"]);
    let config = format!("TrustedUserCAKeys {}", dir.path().join("ca.pub").display());
    let (app, sshd) = (TestApp::start().await, Sshd::start_with(&config).await);
    let admin = app.token(Role::Admin).await;
    let key = create(&app, &admin, "certified").await;
    std::fs::write(dir.path().join("key.pub"), key["public_key"].as_str().unwrap()).unwrap();
    let path = "/api/v1/keys/certified/certificate";
    for serial in ["1", "2"] {
        let sign = ["-s", "ca", "-I", "roundsman", "-n", "root", "-z", serial, "-V", "-1h:+1h", "key.pub"];
        keygen(dir.path(), &sign);
        let body = json!({ "certificate": read(dir.path(), "key-cert.pub") });
        app.call("PUT", path).by(&admin).json(&body).send().await.expect(200);
        if serial == "1" {
            let server = json!({
                "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port().get(), "interval_ms": 1000,
                "identity": "certified", "host_key": sshd.host_key().to_string(),
            });
            app.post("/api/v1/fleet/servers").by(&admin).json(&server).send().await.expect(201);
            app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
        }
    }
    let before = app.state("web-1").last_seen_at;
    app.until("web-1", "read on", |state| state.last_seen_at > before).await;
    assert_eq!(sshd.logins(), 1, "the connection lives on");
    sshd.kill_sessions();
    sshd.wait_for_log("roundsman (serial 2)").await;
    app.until("web-1", "read again", |state| state.last_seen_at > before).await;
}

#[tokio::test]
async fn no_answer_and_no_page_holds_a_private_key() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let admin = app.login(Role::Admin).await;
    keygen(dir.path(), &["-t", "ed25519", "-N", "", "-C", "secret one", "-f", "key"]);
    let text = read(dir.path(), "key");
    let heart: String = text.lines().filter(|line| !line.starts_with("-----")).nth(2).unwrap().to_owned();
    let form = [("name", "brought"), ("private_key", text.as_str())];
    let kept = app.post("/keys/import").by(&admin).form(&form).send().await;
    assert_eq!(kept.status, 303, "{}", kept.text());
    let page = kept.header("location").split('?').next().unwrap().to_owned();
    // Once more: refused, and what was pasted does not come back.
    let refused = app.post("/keys/import").by(&admin).form(&form).send().await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("kept already, as"), "{}", refused.text());
    let mut answers = vec![refused.text()];
    for path in ["/keys", &page, KEYS, &format!("/api/v1{page}"), "/settings", "/servers/new"] {
        let answer = app.get(path).by(&admin).send().await;
        assert_eq!(answer.status, 200, "{path}");
        answers.push(answer.text());
    }
    for answer in answers {
        assert!(!answer.contains(&heart) && !answer.contains("PRIVATE KEY-----\n"), "{answer}");
    }
}

#[tokio::test]
async fn the_forms_of_the_key_pages_do_what_they_say() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    let made = app.post("/keys").by(&admin).form(&[("name", "by form"), ("kind", "ed25519")]).send().await;
    assert_eq!(made.status, 303, "{}", made.text());
    let path = made.header("location").split('?').next().unwrap().to_owned();
    let shown = app.get(made.header("location")).by(&admin).send().await.text();
    assert!(shown.contains("The key is made.") && shown.contains("authorized_keys"), "{shown}");
    let post = |action: &str, pairs: &[(&str, &str)]| {
        app.post(&format!("{path}/{action}")).by(&admin).form(pairs).send()
    };
    let renamed = post("rename", &[("name", "renamed")]).await;
    assert_eq!(renamed.header("location"), format!("{path}?done=saved"));
    let bad = post("rename", &[("name", " ")]).await;
    assert_eq!(bad.status, 422);
    assert!(bad.text().contains("aria-invalid"), "{}", bad.text());
    let not_one = post("certificate", &[("certificate", "ssh-ed25519 AAAA")]).await;
    assert_eq!(not_one.status, 422);
    assert!(not_one.text().contains("not an OpenSSH certificate"), "{}", not_one.text());
    assert_eq!(post("default", &[]).await.status, 303);
    let kept = post("delete", &[("confirm", "renamed")]).await;
    assert_eq!(kept.status, 409);
    assert!(kept.text().contains("default key"), "{}", kept.text());
    let first = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(app.post(&format!("/keys/{first}/default")).by(&admin).form(&[]).send().await.status, 303);
    assert_eq!(post("delete", &[("confirm", "wrong")]).await.status, 422);
    assert_eq!(post("delete", &[("confirm", "renamed")]).await.header("location"), "/keys?done=key-deleted");
}

#[tokio::test]
async fn keys_of_another_organization_are_not_seen() {
    let app = TestApp::start().await;
    let organization = app.another_organization().await;
    let caller = Caller { organization, ..Caller::roundsman() };
    let mine = app.services.fleet.key(&Caller::roundsman(), "default").await.unwrap();
    assert!(app.services.fleet.key(&caller, &mine.key.id.to_string()).await.is_err());
    assert!(app.services.fleet.delete_key(&caller, &mine.key.id.to_string()).await.is_err());
    assert!(app.services.fleet.keys(&caller).await.unwrap().is_empty());
}
