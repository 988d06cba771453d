//! The command line beside a running server, without one, and where something is wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use program::{Done, Program, text};
use serde_json::{Value, json};

#[test]
fn serve_says_how_to_go_on_and_the_first_list_shows_this_machine() {
    let program = Program::served();
    assert!(program.greeting.contains("ssh-ed25519 AAAA"), "{}", program.greeting);
    assert!(program.greeting.contains(&format!("{}/setup/", program.url)), "{}", program.greeting);
    let servers = program.run(&["list", "--json"]).well().json();
    assert_eq!(servers.as_array().unwrap().len(), 1);
    assert_eq!(servers[0]["transport"], "local");
    let name = servers[0]["name"].as_str().unwrap();
    let table = program.run(&["list"]).well().stdout;
    assert!(table.starts_with("NAME") && table.contains("this machine"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour where nobody sees it");
    let shown = program.run(&["show", name]).well().stdout;
    assert!(shown.contains("Memory") && shown.contains("this machine"), "{shown}");
    program.run(&["show", "nobody"]).refused(1, &["no server 'nobody'"]);
}

#[test]
fn the_running_server_is_found_without_being_named() {
    let mut program = Program::served();
    let found = Done::of(program.bare(&["list", "--json"]).output().unwrap()).well();
    assert_eq!(found.json().as_array().unwrap().len(), 1);
    program.stop();
    // As root the default data directory may hold another Roundsman, so it is moved out of sight.
    let lost = program.bare(&["list"]).env("ROUNDSMAN_DATA", program.path("elsewhere")).output().unwrap();
    Done::of(lost).refused(3, &["no Roundsman runs on", "roundsman serve --data"]);
}

#[test]
fn a_token_is_all_that_is_printed_and_opens_the_door_of_its_role_only() {
    let program = Program::served();
    let token = program.run(&["token", "create", "--role", "viewer", "--name", "screen"]).well().stdout;
    let token = token.strip_suffix('\n').unwrap();
    assert!(token.starts_with("rdm_") && !token.contains(char::is_whitespace), "{token}");
    let remote = |arguments: &[&str], token: &str| {
        let mut command = program.bare(arguments);
        Done::of(command.args(["--url", &program.url]).env("ROUNDSMAN_TOKEN", token).output().unwrap())
    };
    remote(&["list"], token).well();
    remote(&["remove", "anything", "--yes"], token).refused(1, &["needs the role admin"]);
    remote(&["list"], "rdm_wrong").refused(1, &["valid token"]);
    let file = program.file("token", &format!("{token}\n"));
    let mut by_file = program.bare(&["list", "--url", &program.url]);
    Done::of(by_file.env("ROUNDSMAN_TOKEN_FILE", file).output().unwrap()).well();
    let listed = program.run(&["token", "list", "--json"]).well();
    assert!(!listed.stdout.contains(token), "a token is shown once");
    let id = listed.json()[0]["id"].as_str().unwrap().to_owned();
    program.run(&["token", "revoke", &id]).well();
    remote(&["list"], token).refused(1, &["valid token"]);
}

#[test]
fn tokens_expire_when_they_were_told_to() {
    let program = Program::served();
    let made =
        program.run(&["token", "create", "--role", "admin", "--expires", "90d", "--json"]).well().json();
    assert!(made["expires_at"].as_str().unwrap().ends_with('Z'), "{made}");
    program
        .run(&["token", "create", "--role", "admin", "--expires", "soon"])
        .refused(2, &["--expires", "90d"]);
    program.run(&["token", "create", "--role", "king"]).refused(2, &["king"]);
}

#[test]
fn without_a_server_the_data_directory_is_opened_and_given_back() {
    let mut program = Program::served();
    program.stop();
    let token = program.run(&["token", "create", "--role", "admin"]).well().stdout;
    assert_eq!(program.run(&["list", "--json"]).well().json().as_array().unwrap().len(), 1);
    program.start();
    let mut remote = program.bare(&["list", "--url", &program.url]);
    Done::of(remote.env("ROUNDSMAN_TOKEN", token.trim()).output().unwrap()).well();
}

#[test]
fn a_socket_left_by_a_killed_server_is_no_server() {
    let mut program = Program::served();
    program.kill();
    assert!(program.data().join("control.sock").exists());
    program.run(&["list"]).well();
    program.start();
    program.run(&["list"]).well();
}

#[test]
fn nothing_is_made_where_no_data_is() {
    let program = Program::prepared();
    program.run(&["list"]).refused(3, &["no Roundsman runs on", "serve --data"]);
    assert!(!program.data().exists());
}

#[test]
fn a_second_serve_on_the_same_data_is_refused() {
    let program = Program::served();
    program.run(&["serve", "--listen", "127.0.0.1:0"]).refused(1, &["another Roundsman uses", "--data"]);
    program.run(&["list"]).well();
}

#[test]
fn a_taken_port_is_named_with_the_way_to_find_who_has_it() {
    let program = Program::prepared();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    program.run(&["serve", "--listen", &address]).refused(1, &[&address, "ss -ltnp", "--listen"]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let program = Program::prepared();
    let file = program.file("occupied", "not a directory");
    let mut command = program.bare(&["serve", "--listen", "127.0.0.1:0"]);
    let done = Done::of(command.arg("--data").arg(file.join("data")).output().unwrap());
    done.refused(1, &["cannot use the data directory", "--data"]);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let mut program = Program::served();
    program.stop();
    let path = program.data().join("roundsman.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    program.run(&["serve", "--listen", "127.0.0.1:0"]).refused(1, &["newer Roundsman"]);
    program.run(&["list"]).refused(1, &["newer Roundsman"]);
}

#[test]
fn an_address_that_others_reach_needs_the_explicit_switch() {
    let program = Program::prepared();
    program.run(&["serve", "--listen", "0.0.0.0:0"]).refused(2, &["--insecure-listen"]);
}

#[test]
fn a_token_is_not_sent_in_clear_to_another_machine() {
    let program = Program::prepared();
    let mut command = program.bare(&["list", "--url", "http://192.0.2.1:9083", "--token", "rdm_x"]);
    Done::of(command.output().unwrap()).refused(2, &["could be read", "--insecure-http"]);
}

#[test]
fn errors_are_json_on_stderr_where_json_is_wanted() {
    let program = Program::served();
    let done = program.run(&["show", "nobody", "--json"]).refused(1, &[]);
    assert_eq!(done.stdout, "");
    let error: Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["error"], "not-found");
    assert_eq!(error["status"], 404);
}

#[test]
fn a_reader_that_goes_away_ends_the_output_quietly() {
    let program = Program::served();
    let mut child = program.command(&["list", "--json"]).spawn().unwrap();
    drop(child.stdout.take().unwrap());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_new_password_is_printed_alone_or_taken_from_a_file() {
    let program = Program::prepared();
    let first = program.file("first", "a long enough first password\n");
    let mut command = program.command(&["serve", "--listen", "127.0.0.1:0"]);
    // The unattended way to the first administrator.
    let mut server = command.env("ROUNDSMAN_ADMIN_PASSWORD_FILE", first).spawn().unwrap();
    let mut greeting = String::new();
    let mut stdout = std::io::BufReader::new(server.stdout.take().unwrap());
    while !greeting.contains("http://") {
        assert!(std::io::BufRead::read_line(&mut stdout, &mut greeting).unwrap() > 0, "{greeting}");
    }
    assert!(!greeting.contains("/setup/"), "{greeting}");
    let made = program.run(&["user", "reset-password", "admin"]).well().stdout;
    assert_eq!(made.trim().len(), 24, "{made}");
    let next = program.file("next", "another quite long password\n");
    program.run(&["user", "reset-password", "admin", "--password-file", text(&next)]).well();
    let poor = program.file("poor", "short\n");
    program
        .run(&["user", "reset-password", "admin", "--password-file", text(&poor)])
        .refused(1, &["password"]);
    program.run(&["user", "reset-password", "nobody"]).refused(1, &["no such user"]);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn doctor_is_content_with_a_new_installation_and_names_what_is_wrong() {
    let mut program = Program::served();
    let done = program.run(&["doctor"]).well();
    for check in
        ["data directory", "master key", "disk space", "roundsman.db", "history.db", "clock", "server"]
    {
        assert!(done.stdout.contains(check), "{check} is not in {}", done.stdout);
    }
    let key = program.data().join("master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let done = program.run(&["doctor"]).refused(1, &["1 problem"]);
    assert!(done.stdout.contains(&format!("chmod 600 {}", key.display())), "{}", done.stdout);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    program.stop();
    let done = program.run(&["doctor", "--json"]).well().json();
    let server = done["checks"].as_array().unwrap().iter().find(|check| check["check"] == "server").unwrap();
    assert!(server["detail"].as_str().unwrap().contains("not running"), "{server}");
}

#[test]
fn doctor_reads_the_configuration_and_looks_at_the_data_that_it_names() {
    let mut program = Program::served();
    program.stop();
    let file = program.data().with_file_name("config.toml");
    let written = |text: &str| std::fs::write(&file, text).unwrap();
    let named = file.to_str().unwrap();
    written("interval = \"5s\"\n[retention]\nraw_days = \"many\"\n");
    let done = program.run(&["doctor", "--config", named]).refused(1, &["1 problem"]);
    assert!(done.stdout.contains(&format!("{named}, line 3")), "{}", done.stdout);
    let archive = file.with_file_name("nowhere");
    written(&format!("[retention]\narchive = \"{}\"\n", archive.display()));
    let done = program.run(&["doctor", "--config", named]).refused(1, &["1 problem"]);
    assert!(done.stdout.contains(&format!("{} is not a directory", archive.display())), "{}", done.stdout);
    written(&format!("data = \"{}\"\n", program.data().display()));
    let done = Done::of(program.bare(&["doctor", "--config", named]).output().unwrap()).well();
    assert!(done.stdout.contains(&format!("{named} is understood")), "{}", done.stdout);
    assert!(done.stdout.contains("master key"), "{}", done.stdout);
}

#[test]
fn removing_needs_a_yes_and_takes_the_server_off_the_list() {
    let program = Program::served();
    let servers = program.run(&["list", "--json"]).well().json();
    let name = servers[0]["name"].as_str().unwrap();
    program.run(&["remove", name]).refused(2, &["--yes"]);
    let said = program.at_terminal(&["remove", name], "no\n");
    assert!(said.contains("nothing was removed"), "{said}");
    program.run(&["remove", name, "--yes"]).well();
    assert_eq!(program.run(&["list", "--json"]).well().json(), json!([]));
    program.run(&["remove", "..", "--yes"]).refused(2, &["not a name"]);
}

/// Answers every request with this, once per connection.
fn answering(body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let answer = |mut stream: TcpStream| -> std::io::Result<()> {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head)?;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        };
        for stream in listener.incoming().flatten() {
            // The test sees what came of it at the other end.
            drop(answer(stream));
        }
    });
    url
}

#[test]
fn escape_codes_in_an_answer_never_reach_the_terminal() {
    let program = Program::prepared();
    let hostile = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}x";
    let url = answering(
        json!({ "items": [{ "name": hostile, "health_status": hostile, "tags": [hostile], "current": {} }],
                "next_cursor": null })
        .to_string(),
    );
    for arguments in [&["list"][..], &["list", "--json"]] {
        let mut command = program.bare(arguments);
        let done = Done::of(command.args(["--url", &url, "--token", "x"]).output().unwrap()).well();
        let seen = done.stdout.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(seen, None, "{:?}", done.stdout);
    }
}

#[test]
fn what_is_no_roundsman_is_called_so() {
    let program = Program::prepared();
    let url = answering("<html>hello</html>".to_owned());
    let done = Done::of(program.bare(&["list", "--url", &url, "--token", "x"]).output().unwrap());
    done.refused(1, &["is not a Roundsman"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let done = Done::of(program.bare(&["list", "--url", &url, "--token", "x"]).output().unwrap());
    done.refused(3, &["cannot talk to", "is Roundsman running there?"]);
}

#[test]
fn cadence_is_shown_and_changed_for_all_and_for_one() {
    let program = Program::served();
    let name = program.run(&["list", "--json"]).well().json()[0]["name"].as_str().unwrap().to_owned();
    assert!(program.run(&["cadence"]).well().stdout.contains("every 30 s"));
    assert!(program.run(&["cadence", "--heavy", "1m"]).well().stdout.contains("every 60 s"));
    assert!(program.run(&["cadence", &name]).well().stdout.contains("every 60 s, the default"));
    let own = program.run(&["cadence", &name, "--every", "2s", "--heavy", "10s"]).well().stdout;
    assert!(own.contains("Read every 2 s") && own.contains("every 10 s\n"), "{own}");
    let shown = program.run(&["show", &name]).well().stdout;
    assert!(shown.contains("Details") && shown.contains("every 10 s"), "{shown}");
    let json = program.run(&["cadence", &name, "--heavy", "default", "--json"]).well().json();
    assert_eq!(
        (json["heavy_interval_ms"].as_u64(), json["interval_ms"].as_u64()),
        (Some(60_000), Some(2_000))
    );
    program.run(&["cadence", &name, "--heavy", "0s"]).refused(2, &["--heavy", "1s to 1h"]);
    program.run(&["cadence", "--every", "5s"]).refused(2, &["NAME"]);
}
