//! What is linked: only licences that `deny.toml` allows, and nothing that it bans.
//!
//! Reads the same file as cargo-deny, for machines that do not have it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rules() -> toml::Table {
    include_str!("../deny.toml").parse().unwrap()
}

/// Packages that end up in a program: reached over normal and build dependencies from the workspace.
fn linked(metadata: &Value) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let mut open: Vec<String> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id.as_str()).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            open.push(dependency["pkg"].as_str().unwrap().to_owned());
        }
    }
    seen
}

/// Whether an SPDX expression can be met with the allowed licences. `AND` binds stronger than `OR`.
fn acceptable(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let any = |text: &str| {
        text.split(" OR ").any(|all| {
            all.split(" AND ").all(|one| allowed.contains(one.trim().trim_matches(['(', ')']).trim()))
        })
    };
    // The only nesting in use is a conjunction of groups: (A OR B) AND C.
    if expression.contains(") AND") || expression.contains("AND (") {
        return expression.split(" AND ").all(|group| any(group.trim().trim_matches(['(', ')'])));
    }
    any(&expression)
}

#[test]
fn every_linked_package_has_an_allowed_licence() {
    let metadata = metadata();
    let linked = linked(&metadata);
    let allowed: BTreeSet<String> = rules()["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        if linked.contains(package["id"].as_str().unwrap()) {
            let licence = package["license"].as_str().unwrap_or("none named");
            if !acceptable(licence, &allowed) {
                wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
            }
        }
    }
    assert!(linked.len() > 100, "the dependencies were not read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_banned_package_and_no_unknown_source_is_linked() {
    let metadata = metadata();
    let rules = rules();
    let banned: BTreeSet<&str> =
        rules["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    let linked = linked(&metadata);
    for package in metadata["packages"].as_array().unwrap() {
        let (name, id) = (package["name"].as_str().unwrap(), package["id"].as_str().unwrap());
        if linked.contains(id) {
            assert!(!banned.contains(name), "{name} is banned by deny.toml");
            let source = package["source"].as_str().unwrap_or("path");
            assert!(source == "path" || source.contains("crates.io-index"), "{name} comes from {source}");
        }
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed: BTreeSet<String> = ["MIT", "ISC"].into_iter().map(str::to_owned).collect();
    for good in ["MIT", "MIT OR GPL-3.0", "GPL-2.0/MIT", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(acceptable(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR AGPL-3.0) AND MIT", "none named"] {
        assert!(!acceptable(bad, &allowed), "{bad}");
    }
}
