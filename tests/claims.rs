//! What the documents say is shown by tests: every line of the requirements that a document answers for names its tests,
//! and the tests exist.
//!
//! A table row reads `| 3.1 what is required | `name_of_a_test`, `another` |`. A browser test is named by its title.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which document answers for which numbered requirements.
const ANSWERS: &[(&str, &[&str])] = &[
    ("docs/actions.md", &["8.1", "8.2"]),
    ("docs/cli.md", &["13"]),
    (
        "docs/ssh.md",
        &["1.5", "1.6", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11"],
    ),
    ("docs/groups.md", &["8.2", "8.3", "8.4", "11", "12.1", "12.3", "16"]),
    ("docs/history.md", &["6.1", "6.2", "6.3", "6.4", "6.5", "6.6"]),
    ("docs/operations.md", &["8.3", "8.4", "8.6"]),
    ("docs/tasks.md", &["8.5", "11.1", "12.3"]),
    (
        "docs/readings.md",
        &["4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "5.1", "5.2", "5.3", "5.4", "16"],
    ),
    ("docs/containers.md", &["4.5"]),
    ("docs/push.md", &["2", "5.2", "10.4", "11.1", "11.3", "11.4"]),
    ("docs/http-servers.md", &["2", "3.9", "7.1", "10.6", "11.4"]),
    ("docs/agent-deploy.md", &["4.8", "5.2", "5.3", "5.4"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_all(folder: &Path, endings: &[&str], into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("node_modules") {
                read_all(&path, endings, into);
            }
        } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
            into.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// The names of the functions that stand under an attribute of a test.
fn rust_tests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= ["#[test]", "#[tokio::test", "#[rstest"].iter().any(|start| line.starts_with(start));
            continue;
        }
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(name) = function.and_then(|rest| rest.split(['(', '<']).next())
            && is_test
        {
            found.push(name.to_owned());
        }
        // Comments and the cases of a table may stand between the attribute and its function.
        is_test &= function.is_none();
    }
    found
}

/// The titles of browser tests: the first argument of `test(`.
fn browser_tests(text: &str) -> Vec<String> {
    text.split("test(")
        .skip(1)
        .filter_map(|rest| {
            let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"' | '`'))?;
            rest[1..].split(quote).next().map(str::to_owned)
        })
        .collect()
}

fn all_tests() -> BTreeSet<String> {
    let mut rust = Vec::new();
    for folder in ["src", "tests", "benches"] {
        read_all(&root().join(folder), &["rs"], &mut rust);
    }
    let mut scripts = Vec::new();
    read_all(&root().join("tests/browser"), &["js"], &mut scripts);
    let from_rust = rust.iter().flat_map(|text| rust_tests(text));
    from_rust.chain(scripts.iter().flat_map(|text| browser_tests(text))).collect()
}

/// The rows of a document's tables: number of the requirement, the tests that it names.
fn rows(text: &str) -> Vec<(String, Vec<String>)> {
    text.lines()
        .filter_map(|line| {
            let row = line.strip_prefix('|')?.trim_end().strip_suffix('|')?;
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [number, .., tests] = cells.as_slice() else { return None };
            let number = number
                .split_whitespace()
                .next()
                .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
            let named = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Some((number.to_owned(), named))
        })
        .collect()
}

#[test]
fn every_requirement_names_tests_that_exist() {
    let known = all_tests();
    let mut wrong = Vec::new();
    for (document, numbers) in ANSWERS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let rows = rows(&text);
        for number in *numbers {
            if !rows.iter().any(|(row, _)| row == number) {
                wrong.push(format!("{document} has no row for {number}"));
            }
        }
        for (number, named) in rows {
            if named.is_empty() {
                wrong.push(format!("{document}: a row of {number} names no test"));
            }
            for name in named.iter().filter(|name| !known.contains(*name)) {
                wrong.push(format!("{document}: {number} names the test '{name}', which does not exist"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_scan_finds_tests_and_only_tests() {
    let text = "#[test]\nfn one() {}\nfn not_me() {}\n#[tokio::test(flavor = \"multi_thread\")]\n// why\nasync fn two() {}\n\
                #[rstest]\n#[case(1)]\nfn three(#[case] x: u8) {}\n";
    assert_eq!(rust_tests(text), ["one", "two", "three"]);
    assert_eq!(browser_tests("test('a b', async () => {});\ntest(\"c\", x)"), ["a b", "c"]);
    let table = "| line | what | test |\n|---|---|---|\n| 3.1 two words | `a`, `b c` |\n| 3.2 | none | |\n";
    let named = vec!["a".to_owned(), "b c".to_owned()];
    assert_eq!(rows(table), [("3.1".to_owned(), named), ("3.2".to_owned(), Vec::new())]);
}
