//! House rules that the compiler does not know: who may use whom, where SQL lives, what a file says of itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file above this has a second noun in it.
const LONGEST_FILE: usize = 700;

/// Siblings that may use each other all the same: time of day is a word of the vocabulary.
const SIBLINGS: [(&str, &str); 1] = [("clock", "model")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with this ending, by path from the root.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    folders.retain(|folder| folder.exists());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == ending) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    let mut all = files("src", "rs");
    all.extend(files("tests", "rs"));
    all.extend(files("benches", "rs"));
    all
}

/// Lines of code with their numbers, without comments of their own line.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The rank of each module, as the table in `src/lib.rs` says it.
fn ranks() -> BTreeMap<String, u8> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("//! | ")?.split(" | ");
            let rank = cells.next()?.parse().ok()?;
            let name = cells.next()?.trim_matches(['[', ']', '`']).to_owned();
            Some((name, rank))
        })
        .collect()
}

/// The top-level modules that a line of code names, given how deep below the crate's root it stands.
fn modules_named(line: &str, depth: usize) -> Vec<String> {
    let mut rest = Vec::new();
    rest.extend(line.match_indices("crate::").map(|(at, found)| &line[at + found.len()..]));
    let mut at = 0;
    while let Some(start) = line[at..].find("super::").map(|found| found + at) {
        let supers = line[start..].split("super::").take_while(|part| part.is_empty()).count();
        at = start + supers * "super::".len();
        if supers >= depth {
            rest.push(&line[at..]);
        }
    }
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    rest.into_iter()
        .flat_map(|text| match text.strip_prefix('{') {
            Some(list) => list.split(',').map(word).collect::<Vec<_>>(),
            None => vec![word(text)],
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn a_module_uses_only_modules_of_a_lower_rank() {
    let ranks = ranks();
    let mut wrong = String::new();
    for (file, text) in files("src", "rs") {
        if file.starts_with("src/agent/") || file == "src/lib.rs" || file == "src/main.rs" {
            continue;
        }
        let inside: Vec<&str> =
            file.strip_prefix("src/").unwrap().trim_end_matches(".rs").split('/').collect();
        let module = *inside.first().unwrap();
        let depth = inside.iter().filter(|part| **part != "mod").count();
        let rank = *ranks.get(module).unwrap_or_else(|| panic!("{module} is not in the table of src/lib.rs"));
        for (number, line) in code(&text) {
            for name in modules_named(line, depth) {
                let Some(other) = ranks.get(&name) else { continue };
                let allowed = name == module || *other < rank || SIBLINGS.contains(&(module, name.as_str()));
                if !allowed {
                    let _ =
                        writeln!(wrong, "{file}:{number}: {module} (rank {rank}) uses {name} (rank {other})");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_import_scan_sees_every_way_to_name_a_module() {
    assert_eq!(modules_named("use crate::store::{self, Store};", 2), ["store"]);
    assert_eq!(modules_named("use crate::{auth, fleet::Fleet};", 2), ["auth", "fleet"]);
    assert_eq!(modules_named("let x = crate::web::serve(super::y());", 2), ["web"]);
    assert_eq!(modules_named("use super::super::fleet::Fleet;", 2), ["fleet"]);
    assert!(modules_named("use super::fleet::Fleet;", 2).is_empty());
}

#[test]
fn the_map_in_lib_rs_names_every_module() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let ranks = ranks();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if matches!(name.as_str(), "lib" | "main" | "agent") {
            continue;
        }
        assert!(text.contains(&format!("\npub mod {name};")), "src/lib.rs does not declare {name}");
        assert!(ranks.contains_key(&name), "the table in src/lib.rs has no row for {name}");
    }
    let declared = text.lines().filter(|line| line.starts_with("pub mod ")).count();
    assert_eq!(declared, ranks.len(), "the table has rows for modules that are gone");
}

#[test]
fn sql_is_written_only_where_data_is_kept() {
    const WORDS: [&str; 8] = [
        "rusqlite::",
        "SELECT ",
        "INSERT INTO ",
        "DELETE FROM ",
        "CREATE TABLE",
        "PRAGMA ",
        "VACUUM",
        " SET updated_at",
    ];
    for (file, text) in files("src", "rs") {
        if file.starts_with("src/store/") || file.starts_with("src/history/") {
            continue;
        }
        for (number, line) in code(&text) {
            let found = WORDS.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{file}:{number}: SQL lives in src/store and src/history: {line}");
        }
    }
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    for (file, text) in rust_files() {
        for (number, line) in code(&text) {
            let attribute = line.trim_start().starts_with("#[") || line.trim_start().starts_with("#![");
            assert!(
                !(attribute && line.contains("allow(")),
                "{file}:{number}: use #[expect(…, reason = …)] instead of allow"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_is_no_longer_than_it_needs_to_be() {
    for (file, text) in rust_files() {
        assert!(text.starts_with("//!"), "{file} does not open with //!");
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{file} has {lines} lines; look for its second noun");
    }
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    for (folder, file) in [("src/store", "mod.rs"), ("src/history", "database.rs")] {
        let mut names: Vec<String> = fs::read_dir(root().join(folder).join("migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let source = fs::read_to_string(root().join(folder).join(file)).unwrap();
        for (at, name) in names.iter().enumerate() {
            assert!(
                name.starts_with(&format!("{:04}_", at + 1)),
                "{folder}: {name} is not number {}",
                at + 1
            );
            assert!(
                name.ends_with(".sql") && source.contains(name.as_str()),
                "{folder}: {name} is not applied"
            );
        }
    }
}

#[test]
fn readme_and_install_give_the_two_commands() {
    for document in ["README.md", "INSTALL.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for command in ["./scripts/start.sh", "./scripts/test.sh"] {
            assert!(text.contains(command), "{document} does not mention {command}");
        }
    }
}

#[test]
fn documents_link_only_to_files_that_exist() {
    let mut documents = files("docs", "md");
    for name in ["README.md", "INSTALL.md", "CHANGELOG.md"] {
        documents.push((name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    }
    for (name, text) in documents {
        let folder = Path::new(&name).parent().unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            assert!(
                root().join(folder).join(target).exists(),
                "{name} links to {target}, which is not there"
            );
        }
    }
}

#[test]
fn scripts_can_be_run_and_stop_at_the_first_failure() {
    for script in ["scripts/start.sh", "scripts/test.sh", ".ci/run"] {
        let path = root().join(script);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#!/usr/bin/env bash\n"), "{script}");
        assert!(text.contains("\nset -euo pipefail\n"), "{script}");
        assert!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o111 == 0o111,
            "{script} is not executable"
        );
    }
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.lines().any(|line| line == "exec ./scripts/test.sh --all"), ".ci/run runs everything");
}
