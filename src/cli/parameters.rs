//! Parameters of an action as options: words, files, variables of the environment.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};

use super::error::CliError;
use super::output::printable;
use crate::actions::{CONTENT_LIMIT_BYTES, LISTS};

/// Parameters that are said by name.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Parameters {
    /// Parameter of the action; may be given several times. A list (arguments, packages) is given item by item
    #[arg(short = 'p', long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Parameter whose value is the content of a file, such as content=nginx.conf or script=fix.sh
    #[arg(long = "parameter-file", value_name = "NAME=FILE")]
    files: Vec<String>,
}

impl Parameters {
    pub(super) const fn is_empty(&self) -> bool {
        self.parameters.is_empty() && self.files.is_empty()
    }

    /// # Errors
    /// [`CliError::Usage`] for what is no pair, [`CliError::Failed`] for a file that cannot be read.
    pub(super) fn add_to(&self, into: &mut Map<String, Value>) -> Result<(), CliError> {
        for text in &self.parameters {
            let (name, value) = pair("--parameter", text)?;
            if LISTS.contains(&name) {
                match into.entry(name).or_insert_with(|| json!([])) {
                    Value::Array(items) => items.push(json!(value)),
                    other => *other = json!([value]),
                }
            } else {
                into.insert(name.to_owned(), json!(value));
            }
        }
        for text in &self.files {
            let (name, path) = pair("--parameter-file", text)?;
            let bytes = content(Path::new(path))?;
            match String::from_utf8(bytes) {
                Ok(text) => into.insert(name.to_owned(), json!(text)),
                Err(error) if name == "content" => {
                    into.insert("content_base64".to_owned(), json!(STANDARD.encode(error.as_bytes())))
                }
                Err(_) => {
                    let message = format!("--parameter-file: {} is not text in UTF-8", printable(path));
                    return Err(CliError::usage(message));
                }
            };
        }
        Ok(())
    }
}

/// Variables of what runs.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Environment {
    /// Variable of the environment; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Variable whose value is taken from roundsman's own environment and stands in no process list and no record
    #[arg(long = "secret-env", value_name = "NAME")]
    secret_environment: Vec<String>,
}

impl Environment {
    /// # Errors
    /// [`CliError::Usage`] for what is no pair, and for a variable that is not there.
    pub(super) fn add_to(&self, into: &mut Map<String, Value>) -> Result<(), CliError> {
        let mut environment = Map::new();
        for text in &self.environment {
            let (name, value) = pair("--env", text)?;
            environment.insert(name.to_owned(), json!(value));
        }
        for name in &self.secret_environment {
            let value = std::env::var(name).map_err(|_| {
                CliError::usage(format!("--secret-env: there is no variable {} here", printable(name)))
            })?;
            environment.insert(name.clone(), json!({ "secret": value }));
        }
        if !environment.is_empty() {
            into.insert("environment".to_owned(), Value::Object(environment));
        }
        Ok(())
    }
}

fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str), CliError> {
    text.split_once('=')
        .ok_or_else(|| CliError::usage(format!("{option}: '{}' is not NAME=VALUE", printable(text))))
}

/// As much as any parameter may hold.
fn content(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |cause: String| CliError::failed(format!("cannot read {}: {cause}", path.display()));
    let limit = u64::try_from(CONTENT_LIMIT_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() > CONTENT_LIMIT_BYTES {
        return Err(failed(format!("it is larger than {CONTENT_LIMIT_BYTES} bytes; use 'roundsman cp'")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lists_and_files_become_parameters() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let (text, binary) = (write("text", b"a=b\n"), write("binary", &[0xff, 0]));
        let said = |parameters: &[&str], files: &[String]| {
            let parameters = parameters.iter().map(|text| (*text).to_owned()).collect();
            let mut into = Map::new();
            Parameters { parameters, files: files.to_vec() }.add_to(&mut into).map(|()| Value::Object(into))
        };
        assert_eq!(
            said(&["service=nginx", "packages=a", "packages=b"], &[format!("script={text}")]).unwrap(),
            json!({ "service": "nginx", "packages": ["a", "b"], "script": "a=b\n" })
        );
        assert_eq!(
            said(&[], &[format!("content={binary}")]).unwrap(),
            json!({ "content_base64": STANDARD.encode([0xff, 0]) })
        );
        assert!(said(&["nonsense"], &[]).is_err());
        assert!(said(&[], &[format!("script={binary}")]).unwrap_err().to_string().contains("UTF-8"));
        assert!(said(&[], &["content=/nowhere/at/all".to_owned()]).is_err());
    }
}
