//! What an import comes to, as a table and as sentences.

use std::collections::HashSet;

use serde_json::Value;

use super::super::error::CliError;
use super::super::output::{Output, text};

/// Notes after which the rest is counted only; a long ssh_config has one for every second line.
const NOTES: usize = 20;

fn lines(report: &Value) -> impl Iterator<Item = &Value> {
    report.get("lines").and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn additions(report: &Value) -> impl Iterator<Item = &Value> {
    lines(report).filter(|line| text(line, "verdict") == "add").filter_map(|line| line.get("server"))
}

/// Paths of the keys that the additions need, each once.
pub(super) fn keys(report: &Value) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for server in additions(report) {
        let key = server.get("login").and_then(|login| login.get("key")).and_then(Value::as_str);
        if let Some(key) = key.filter(|key| key.starts_with('/'))
            && !keys.iter().any(|known| known == key)
        {
            keys.push(key.to_owned());
        }
    }
    keys
}

/// Path of the certificate that the first server with this key names.
pub(super) fn certificate_of(report: &Value, key: &str) -> Option<String> {
    let named = |server: &&Value| {
        server.get("login").and_then(|login| login.get("key")).and_then(Value::as_str) == Some(key)
            && server.get("certificate").is_some()
    };
    additions(report).find(named).map(|server| text(server, "certificate").to_owned())
}

pub(super) fn count(report: &Value, verdict: &str) -> u64 {
    report.get("counts").map_or(0, |counts| count_of(counts, verdict))
}

pub(super) fn count_of(object: &Value, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn place(line: &Value) -> String {
    let Some(at) = line.get("at") else { return String::new() };
    let number = count_of(at, "line");
    match at.get("file").and_then(Value::as_str) {
        Some(file) => format!("{file}:{number}"),
        None => number.to_string(),
    }
}

fn address(server: &Value) -> String {
    let host = text(server, "hostname");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let user = Some(text(server, "username")).filter(|user| !user.is_empty()).unwrap_or("root");
    format!("{user}@{host}:{}", count_of(server, "port"))
}

/// Verdict, name, and what there is to say.
fn row(line: &Value) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let (mut name, mut place_of) = (text(line, "name").to_owned(), String::new());
    let verdict = text(line, "verdict");
    match verdict {
        "add" => {
            if let Some(server) = line.get("server") {
                text(server, "name").clone_into(&mut name);
                place_of = address(server);
                let jump = text(server, "jump_host");
                if !jump.is_empty() {
                    said.push(format!("over {jump}"));
                }
            }
        }
        "exists" => said.push("is there already".to_owned()),
        "duplicate" => {
            said.push(format!("was said in line {}", line.get("of").map_or(0, |of| count_of(of, "line"))))
        }
        "invalid" => said.push(format!("{}: {}", text(line, "field"), text(line, "message"))),
        "unsupported" => said.push(text(line, "what").to_owned()),
        _ => said.push(text(line, "text").to_owned()),
    }
    let remarks = line.get("remarks").and_then(Value::as_array).into_iter().flatten();
    said.extend(remarks.filter_map(Value::as_str).map(str::to_owned));
    vec![place(line), verdict.to_owned(), name, place_of, said.join("; ")]
}

/// Every line with its verdict; what is long is said below.
pub(super) fn table(report: &Value, output: &Output) -> Result<(), CliError> {
    let mut notes = 0;
    let mut rows = Vec::new();
    for line in lines(report) {
        if text(line, "verdict") == "note" {
            notes += 1;
            if notes > NOTES {
                continue;
            }
        }
        rows.push(row(line));
    }
    output.table(&["LINE", "VERDICT", "NAME", "ADDRESS", "REMARKS"], &[], rows)?;
    if notes > NOTES {
        output.remark(&format!("and {} more notes; --json has them all", notes - NOTES))?;
    }
    Ok(())
}

/// The lines that are left out, on stderr.
pub(super) fn problems(report: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return Ok(());
    }
    for line in lines(report).filter(|line| matches!(text(line, "verdict"), "invalid" | "unsupported")) {
        let [at, verdict, _, _, said] = row(line).try_into().unwrap_or_default();
        output.remark(&format!("line {at} is left out, {verdict}: {said}"))?;
    }
    Ok(())
}

pub(super) fn summary(report: &Value) -> String {
    let part = |verdict: &str, word: &str| {
        let count = count(report, verdict);
        (count > 0).then(|| format!("{count} {word}"))
    };
    let parts: Vec<String> = [
        Some(format!("{} to add", count(report, "add"))),
        part("exists", "there already"),
        part("duplicate", "said twice"),
        part("invalid", "wrong"),
        part("unsupported", "not supported"),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("{}.", parts.join(", "))
}

/// What became of the servers that were not told of yet.
pub(super) fn tell(progress: &Value, told: &mut HashSet<usize>, output: &Output) -> Result<(), CliError> {
    let items = progress.get("items").and_then(Value::as_array).into_iter().flatten();
    for (index, item) in items.enumerate() {
        let (name, address) = (text(item, "name"), text(item, "address"));
        let said = match text(item, "state") {
            "added" => format!("✓ {name} ({address})"),
            "unchecked" => format!(
                "! {name} ({address}) is stored; it was not reached, or its host key waits for approval"
            ),
            "failed" => format!("✗ {name} ({address}): {}", text(item, "message")),
            _ => continue,
        };
        if told.insert(index) {
            output.line(&said)?;
        }
    }
    Ok(())
}

pub(super) fn result(progress: &Value) -> String {
    let count = |name: &str| count_of(progress, name);
    let mut said = format!("{} of {} added", count("added") + count("unchecked"), count("total"));
    if count("unchecked") > 0 {
        said.push_str(&format!(", {} of them unchecked", count("unchecked")));
    }
    if count("failed") > 0 {
        said.push_str(&format!(", {} failed", count("failed")));
    }
    if text(progress, "state") == "interrupted" {
        said.push_str("; Roundsman was stopped before the end, the same import goes on where it ended");
    }
    format!("{said}.")
}
