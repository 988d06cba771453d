//! How a command is to run beyond its text: as whom, with what around it, in which container.
//!
//! Pure: parses and validates. Values that are secret are never shown, recorded or told apart by their length.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use super::{ActionError, invalid};
use crate::model::Secret;

/// What is written to the command's standard input at most; more is a file to be uploaded.
pub const STDIN_LIMIT_BYTES: usize = 256 * 1024;
/// Variables of one command; more is a configuration file.
const VARIABLES: usize = 64;
const VARIABLE_NAME_BYTES: usize = 128;
/// Linux takes 128 KiB for one string of the environment (execve(2)); a fourth of that fits every shell.
const VARIABLE_VALUE_BYTES: usize = 32 * 1024;
const WORD_BYTES: usize = 128;
const LABEL_CHARS: usize = 100;
const HIDDEN: &str = "*****";

/// The value of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    Plain(String),
    /// Stands in no process list and no record.
    Secret(Secret<String>),
}

/// What runs containers on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerEngine {
    Docker,
    Podman,
}

/// A container in which the command runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InContainer {
    #[serde(default = "docker")]
    pub engine: ContainerEngine,
    /// Its name or id.
    pub name: String,
}

const fn docker() -> ContainerEngine {
    ContainerEngine::Docker
}

/// Everything about a command but its text, sudo and its time limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct How {
    /// None: root with sudo, else the user that Roundsman logs in as.
    pub run_as: Option<String>,
    pub environment: BTreeMap<String, Variable>,
    pub stdin: Option<Secret<String>>,
    pub container: Option<InContainer>,
    /// What a person calls it.
    pub label: Option<String>,
}

/// Values stay out of it: equal ones hash equally all the same.
impl Hash for How {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.run_as, &self.container, &self.label).hash(state);
        self.environment.keys().for_each(|name| name.hash(state));
    }
}

impl How {
    /// From parameters as forms and the API name them: `run_as`, `environment` and `secret_environment` (lines
    /// `NAME=value`, or a JSON object whose values are texts or `{"secret": "…"}`), `stdin`, `container` (a name, or a JSON
    /// object with engine and name), `container_engine`, `label`.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let given = |name: &str| parameter(name).filter(|text| !text.trim().is_empty());
        let mut environment = BTreeMap::new();
        for (name, secret) in [("environment", false), ("secret_environment", true)] {
            if let Some(text) = given(name) {
                variables(&text, secret, &mut environment)?;
            }
        }
        if environment.len() > VARIABLES {
            return Err(invalid("environment", format!("a command has at most {VARIABLES} variables")));
        }
        let stdin = parameter("stdin").filter(|text| !text.is_empty());
        if stdin.as_ref().is_some_and(|text| text.len() > STDIN_LIMIT_BYTES) {
            return Err(invalid(
                "stdin",
                format!("the input is longer than {STDIN_LIMIT_BYTES} bytes; upload a file instead"),
            ));
        }
        let run_as = given("run_as").map(|text| text.trim().to_owned());
        if run_as.as_deref().is_some_and(|user| !is_word(user, "_.-$")) {
            return Err(invalid("run_as", "this is not a user name"));
        }
        let label = given("label").map(|text| text.trim().to_owned());
        if label
            .as_ref()
            .is_some_and(|text| text.chars().count() > LABEL_CHARS || text.chars().any(char::is_control))
        {
            return Err(invalid(
                "label",
                format!("a label has at most {LABEL_CHARS} characters on one line"),
            ));
        }
        Ok(Self {
            run_as,
            environment,
            stdin: stdin.map(Secret::new),
            container: container(parameter)?,
            label,
        })
    }

    /// What [`Self::parse`] takes, without what is secret: values of secret variables and the input.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        fields.extend(self.run_as.clone().map(|user| ("run_as", user)));
        fields.extend(self.label.clone().map(|label| ("label", label)));
        if let Some(container) = &self.container {
            fields.push(("container", container.name.clone()));
            fields.push(("container_engine", container.engine.program().to_owned()));
        }
        let lines: Vec<String> = self
            .environment
            .iter()
            .filter_map(|(name, value)| match value {
                Variable::Plain(text) if !text.contains('\n') => Some(format!("{name}={text}")),
                _ => None,
            })
            .collect();
        if !lines.is_empty() {
            fields.push(("environment", lines.join("\n")));
        }
        fields
    }

    /// Nothing is said, so the command's text is all there is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        Self { label: None, ..self.clone() } == Self::default()
    }
}

/// From `container` and `container_engine`, as [`How::parse`] takes them.
pub(super) fn container(
    parameter: impl Fn(&str) -> Option<String>,
) -> Result<Option<InContainer>, ActionError> {
    let given = |name: &str| parameter(name).filter(|text| !text.trim().is_empty());
    let (Some(text), engine) = (given("container"), given("container_engine")) else { return Ok(None) };
    let refused = |message: String| invalid("container", message);
    let found = if text.trim_start().starts_with('{') {
        serde_json::from_str::<InContainer>(&text).map_err(|error| {
            refused(format!("the container is not {{\"engine\": \"docker\", \"name\": …}}: {error}"))
        })?
    } else {
        let engine = match engine.as_deref().map(str::trim) {
            None | Some("docker") => ContainerEngine::Docker,
            Some("podman") => ContainerEngine::Podman,
            Some(_) => return Err(refused("the engine is docker or podman".to_owned())),
        };
        InContainer { engine, name: text.trim().to_owned() }
    };
    if is_word(&found.name, "_.-") {
        Ok(Some(found))
    } else {
        Err(refused("this is not the name or id of a container".to_owned()))
    }
}

fn is_word(text: &str, others: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && text.len() <= WORD_BYTES && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Sent {
    Plain(String),
    Secret { secret: String },
}

fn variables(text: &str, all_secret: bool, into: &mut BTreeMap<String, Variable>) -> Result<(), ActionError> {
    let bad = |message: &str| invalid("environment", message);
    let sent: Vec<(String, Sent)> = if text.trim_start().starts_with('{') {
        serde_json::from_str::<BTreeMap<String, Sent>>(text)
            .map_err(|_| bad("the environment is not an object of texts, or of {\"secret\": text}"))?
            .into_iter()
            .collect()
    } else {
        text.lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) =
                    line.split_once('=').ok_or_else(|| bad("write a NAME=value on each line"))?;
                Ok((name.trim().to_owned(), Sent::Plain(value.to_owned())))
            })
            .collect::<Result<_, ActionError>>()?
    };
    for (name, value) in sent {
        let starts = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let named =
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && name.len() <= VARIABLE_NAME_BYTES;
        if !starts || !named {
            return Err(bad("the name of a variable is made of letters, digits and _"));
        }
        let (secret, text) = match value {
            Sent::Plain(text) => (all_secret, text),
            Sent::Secret { secret } => (true, secret),
        };
        if text.contains('\0') || text.len() > VARIABLE_VALUE_BYTES {
            return Err(invalid(
                "environment",
                format!(
                    "the value of {name} is longer than {VARIABLE_VALUE_BYTES} bytes or holds a NUL character"
                ),
            ));
        }
        let value = if secret { Variable::Secret(Secret::new(text)) } else { Variable::Plain(text) };
        into.insert(name, value);
    }
    Ok(())
}

/// For the operation's record: what was said, with every value that may be a secret hidden.
impl Serialize for How {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(user) = &self.run_as {
            map.serialize_entry("run_as", user)?;
        }
        if !self.environment.is_empty() {
            let shown: BTreeMap<&str, String> = self
                .environment
                .iter()
                .map(|(name, value)| {
                    let text = match value {
                        Variable::Plain(text) => {
                            // The name counts: PASSWORD=x is a secret whoever forgot to say so.
                            let whole = super::mask(&format!("{name}={text}"));
                            whole
                                .split_once('=')
                                .map_or_else(|| HIDDEN.to_owned(), |(_, text)| text.to_owned())
                        }
                        Variable::Secret(_) => HIDDEN.to_owned(),
                    };
                    (name.as_str(), text)
                })
                .collect();
            map.serialize_entry("environment", &shown)?;
        }
        if let Some(input) = &self.stdin {
            map.serialize_entry("stdin_bytes", &input.expose().len())?;
        }
        if let Some(container) = &self.container {
            map.serialize_entry("container", container)?;
        }
        if let Some(label) = &self.label {
            map.serialize_entry("label", label)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<How, ActionError> {
        How::parse(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn what_is_said_is_read_from_forms_and_from_json_alike() {
        let form = parse(&[
            ("run_as", "www-data"),
            ("environment", "A=1\nB=two words=x\n"),
            ("secret_environment", "KEY=hunter2"),
            ("container", "web"),
            ("container_engine", "podman"),
        ]);
        let json = parse(&[
            ("run_as", "www-data"),
            ("environment", r#"{"A": "1", "B": "two words=x", "KEY": {"secret": "hunter2"}}"#),
            ("container", r#"{"engine": "podman", "name": "web"}"#),
        ]);
        assert_eq!(form, json);
        assert!(form.unwrap().environment.len() == 3 && parse(&[]).unwrap().is_plain());
    }

    #[test]
    fn no_secret_is_in_the_record_of_what_was_said() {
        let how = parse(&[
            ("environment", r#"{"PLAIN": "seen", "DB_PASSWORD": "hunter2", "KEY": {"secret": "hunter3"}}"#),
            ("stdin", "hunter4"),
        ])
        .unwrap();
        let text = serde_json::to_string(&how).unwrap();
        assert!(text.contains("\"PLAIN\":\"seen\"") && text.contains("\"stdin_bytes\":7"), "{text}");
        assert!(!text.contains("hunter") && !format!("{how:?}").contains("hunter3"), "{text}");
    }

    #[test]
    fn what_a_shell_could_misread_is_refused_with_its_field() {
        for (name, value) in [
            ("run_as", "-u root"),
            ("run_as", "a;id"),
            ("environment", "NO EQUALS"),
            ("environment", "A B=1"),
            ("environment", "1A=1"),
            ("environment", r#"{"A": 1}"#),
            ("container", "--privileged"),
            ("container", "a b"),
            ("container", r#"{"engine": "lxc", "name": "web"}"#),
            ("label", "two\nlines"),
        ] {
            let Err(ActionError::Invalid { field, .. }) = parse(&[(name, value)]) else {
                panic!("{name}={value}")
            };
            assert_eq!(field, name, "{value}");
        }
    }
}
