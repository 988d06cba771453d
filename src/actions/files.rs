//! Files put on servers: what is asked, how it is validated, and the command that does it.
//!
//! Pure. The steps on the server are one text, `scripts/files/put.sh`; the content goes over its standard input.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::files_template::{TemplateValues, check, render};
use super::{ActionError, How, Plan, Surroundings, TIMEOUT_RANGE, invalid, mask};
use crate::quote::quote;

/// Largest content. It is in memory while its operation runs; larger files go by `cp`, which keeps nothing.
pub const CONTENT_LIMIT_BYTES: usize = 1024 * 1024;
/// Content up to this size stays in the operation's row, so that it can be done again: configuration, not archives.
const KEPT_BYTES: usize = 16 * 1024;
const PATH_BYTES: usize = 1024;
const OWNER_BYTES: usize = 128;
/// Of a validation or a reload; more is a script on the server.
const COMMAND_BYTES: usize = 4096;
/// All steps together: a megabyte over a slow line, and a service that takes its time to reload.
const TIMEOUT: Duration = Duration::from_secs(300);
const SCRIPT: &str = include_str!("../../scripts/files/put.sh");

/// Which of the actions on files it is; they differ in what they need and how they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// The content as it is.
    Upload,
    /// The content is a template, filled in for each server.
    Template,
    /// With a validation or a reload, and the old file again where one fails.
    Configuration,
}

impl FileKind {
    /// As the API spells it; older and shorter words are accepted.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "upload_file" | "upload" => Some(Self::Upload),
            "upload_template" | "template" => Some(Self::Template),
            "update_configuration" | "update_config" | "config" => Some(Self::Configuration),
            _ => None,
        }
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload_file",
            Self::Template => "upload_template",
            Self::Configuration => "update_configuration",
        }
    }
}

/// Bytes of a file, shared by all targets. Two are the same when their SHA-256 is; nothing prints them.
#[derive(Clone)]
pub struct Content {
    bytes: Arc<[u8]>,
    sha256: String,
}

impl Content {
    fn new(bytes: Vec<u8>) -> Self {
        Self { sha256: sha256(&bytes), bytes: bytes.into() }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sha256.hash(state);
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes, {})", self.bytes.len(), self.sha256)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file to be as said on a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileChange {
    pub kind: FileKind,
    /// Absolute.
    pub path: String,
    content: Content,
    /// The content is filled in for each server.
    pub is_template: bool,
    /// Permission bits. None: those of the file that is replaced, or 0644.
    pub mode: Option<u32>,
    /// `user` or `user:group`. None: those of the file that is replaced, or the login's.
    pub owner: Option<String>,
    pub sudo: bool,
    /// Runs when the new file is in place; the old one comes back unless it ends with 0.
    pub validate: Option<String>,
    /// As `validate`, after it.
    pub reload: Option<String>,
    /// Only shows what would change.
    pub compare: bool,
    /// The lines that differ are shown and recorded.
    pub shows_diff: bool,
    pub timeout_ms: u64,
}

impl FileChange {
    /// From parameters as forms and the API name them: `path`; `content` (exact), `text` (from a form: line ends are
    /// put right) or `content_base64`; `template`, `mode` (octal; also `permissions`), `owner`, `sudo`, `validate`, `reload`, `compare`,
    /// `show_diff`, `timeout_s`.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub fn parse(kind: FileKind, parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let given =
            |name: &str| parameter(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let is_said =
            |name: &str| given(name).map(|text| matches!(text.as_str(), "true" | "on" | "1" | "yes"));
        let path = path(given("path"))?;
        let is_template = kind == FileKind::Template || is_said("template").unwrap_or(false);
        let (content, field) = content(&parameter)?;
        if is_template {
            let text = std::str::from_utf8(&content.bytes)
                .map_err(|_| invalid(field, "a template is text in UTF-8"))?;
            check(text).map_err(|error| invalid(field, error.to_string()))?;
        }
        let (validate, reload) =
            (command("validate", given("validate"))?, command("reload", given("reload"))?);
        if kind != FileKind::Configuration && (validate.is_some() || reload.is_some()) {
            return Err(invalid("validate", "a validation and a reload belong to update_configuration"));
        }
        Ok(Self {
            kind,
            path,
            content,
            is_template,
            mode: given("mode")
                .map(|text| mode("mode", &text))
                .or_else(|| given("permissions").map(|text| mode("permissions", &text)))
                .transpose()?,
            owner: owner(given("owner"))?,
            sudo: is_said("sudo").unwrap_or(false),
            validate,
            reload,
            compare: is_said("compare").unwrap_or(false),
            shows_diff: is_said("show_diff").unwrap_or(true),
            timeout_ms: timeout_ms(given("timeout_s"))?,
        })
    }

    pub(super) fn title(&self) -> String {
        match (self.compare, self.kind) {
            (true, _) => format!("Compare {}", self.path),
            (false, FileKind::Upload) => format!("Upload {}", self.path),
            (false, FileKind::Template) => format!("Upload {} from a template", self.path),
            (false, FileKind::Configuration) => format!("Update the configuration {}", self.path),
        }
    }

    /// The parameters as [`Self::parse`] takes them.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let flag = |is_set: bool| is_set.then(|| "true".to_owned());
        let said = [
            ("path", Some(self.path.clone())),
            ("content_base64", Some(BASE64.encode(&self.content.bytes))),
            ("template", flag(self.is_template && self.kind != FileKind::Template)),
            ("mode", self.mode.map(|mode| format!("{mode:o}"))),
            ("owner", self.owner.clone()),
            ("sudo", flag(self.sudo)),
            ("validate", self.validate.clone()),
            ("reload", self.reload.clone()),
            ("compare", flag(self.compare)),
            ("show_diff", (!self.shows_diff).then(|| "false".to_owned())),
            ("timeout_s", Some(self.timeout_ms.div_ceil(1000).to_string())),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// What is sent to one server.
    ///
    /// # Errors
    /// [`ActionError::Invalid`]: the template does not render for it.
    pub fn plan(&self, around: Surroundings, values: &TemplateValues) -> Result<Plan, ActionError> {
        let bytes = self.content_for(values)?;
        let words = self.words(&bytes)?;
        let sudo = self.sudo && !around.is_root;
        let shown = format!("sh put.sh {words} <CONTENT");
        Ok(Plan {
            command: if sudo { format!("{} {shown}", around.sudo_words()) } else { shown },
            container_command: None,
            timeout: Duration::from_millis(self.timeout_ms),
            inner: words,
            sudo,
            how: How::default(),
        })
    }

    /// The shell text that is sent for a plan, and the bytes for its standard input, which are those that the plan was
    /// made for. Both are made when a server's turn has come: for thousands at once they would fill the memory.
    ///
    /// # Errors
    /// [`ActionError::Invalid`]: what is known of the server is another by now, so the file would be another too.
    pub fn sent(&self, plan: &Plan, values: &TemplateValues) -> Result<(String, Vec<u8>), ActionError> {
        let bytes = self.content_for(values)?;
        if plan.inner != self.words(&bytes)? {
            return Err(invalid(
                "content",
                "the template makes another file than when this was begun, because the server's values changed; begin it anew",
            ));
        }
        let script = quote(SCRIPT).map_err(|error| invalid("path", error.to_string()))?;
        Ok((format!("exec sh -c {script} put.sh {}", plan.inner), bytes.into_owned()))
    }

    fn content_for(&self, values: &TemplateValues) -> Result<Cow<'_, [u8]>, ActionError> {
        if self.is_template {
            let text = std::str::from_utf8(&self.content.bytes)
                .map_err(|_| invalid("content", "a template is text in UTF-8"))?;
            Ok(Cow::Owned(render(text, values)?))
        } else {
            Ok(Cow::Borrowed(&self.content.bytes))
        }
    }

    fn words(&self, bytes: &[u8]) -> Result<String, ActionError> {
        let mut words = vec![
            "--path".to_owned(),
            self.path.clone(),
            "--bytes".to_owned(),
            bytes.len().to_string(),
            "--sha256".to_owned(),
            if self.is_template { sha256(bytes) } else { self.content.sha256.clone() },
        ];
        let options = [
            ("--mode", self.mode.map(|mode| format!("{mode:o}"))),
            ("--owner", self.owner.clone()),
            ("--validate", self.validate.clone()),
            ("--reload", self.reload.clone()),
        ];
        for (name, value) in options {
            words.extend(value.map(|value| [name.to_owned(), value]).into_iter().flatten());
        }
        words.extend(self.compare.then(|| "--compare".to_owned()));
        words.extend((!self.shows_diff).then(|| "--no-diff".to_owned()));
        let quoted: Result<Vec<String>, _> = words.iter().map(|word| quote(word)).collect();
        Ok(quoted.map_err(|error| invalid("path", error.to_string()))?.join(" "))
    }

    /// The content as it may stand in the operation's row. None: too large, no text, or it looks like a secret.
    fn kept_content(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.content.bytes).ok()?;
        let is_secret = !self.shows_diff || text.contains("PRIVATE KEY") || mask(text) != text;
        (text.len() <= KEPT_BYTES && !is_secret).then_some(text)
    }
}

/// For the operation's record: everything that was said, and the content where it may be kept.
impl Serialize for FileChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", &self.path)?;
        if let Some(content) = self.kept_content() {
            map.serialize_entry("content", content)?;
        }
        map.serialize_entry("content_bytes", &self.content.bytes.len())?;
        map.serialize_entry("content_sha256", &self.content.sha256)?;
        map.serialize_entry("template", &self.is_template)?;
        if let Some(mode) = self.mode {
            map.serialize_entry("mode", &format!("{mode:04o}"))?;
        }
        let texts = [
            ("owner", self.owner.clone()),
            ("validate", self.validate.as_deref().map(mask)),
            ("reload", self.reload.as_deref().map(mask)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                map.serialize_entry(name, &text)?;
            }
        }
        map.serialize_entry("sudo", &self.sudo)?;
        map.serialize_entry("compare", &self.compare)?;
        map.serialize_entry("show_diff", &self.shows_diff)?;
        map.serialize_entry("timeout_ms", &self.timeout_ms)?;
        map.end()
    }
}

/// The content, and the parameter that it came in.
fn content(parameter: &impl Fn(&str) -> Option<String>) -> Result<(Content, &'static str), ActionError> {
    let is_said = |name: &str| parameter(name).is_some_and(|text| !text.is_empty());
    if is_said("content_base64") && (is_said("text") || is_said("content")) {
        return Err(invalid(
            "content_base64",
            "the content is given twice, as text and as a file; leave one out",
        ));
    }
    let (bytes, field) = if let Some(text) = parameter("content") {
        (text.into_bytes(), "content")
    } else if let Some(text) = parameter("content_base64") {
        // Either alphabet: in a form the signs of the plain one take three bytes each.
        let plain = |sign: char| match sign {
            '-' => '+',
            '_' => '/',
            other => other,
        };
        let packed: String = text.chars().filter(|sign| !sign.is_ascii_whitespace()).map(plain).collect();
        let field = "content_base64";
        (BASE64.decode(packed).map_err(|_| invalid(field, "this is no Base64"))?, field)
    } else if let Some(text) = parameter("text") {
        // Browsers send CR LF, and forms lose the last line end.
        let mut text = text.replace("\r\n", "\n");
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        (text.into_bytes(), "text")
    } else {
        return Err(invalid("content", "content is missing: the text of the file, or content_base64"));
    };
    if bytes.len() > CONTENT_LIMIT_BYTES {
        return Err(invalid(
            "content",
            format!(
                "a file has at most {CONTENT_LIMIT_BYTES} bytes here; copy larger ones with roundsman cp"
            ),
        ));
    }
    Ok((Content::new(bytes), field))
}

fn path(given: Option<String>) -> Result<String, ActionError> {
    let path = given.ok_or_else(|| invalid("path", "path is missing: where the file is on the server"))?;
    let parts = path.strip_prefix('/').unwrap_or_default();
    let is_plain = !parts.is_empty() && parts.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if is_plain && path.len() <= PATH_BYTES && !path.chars().any(char::is_control) {
        Ok(path)
    } else {
        Err(invalid(
            "path",
            format!(
                "the path must be absolute, name a file, and have no . or .. in it, at most {PATH_BYTES} bytes"
            ),
        ))
    }
}

fn mode(field: &'static str, text: &str) -> Result<u32, ActionError> {
    let is_octal = text.len() <= 4 && text.chars().all(|c| c.is_digit(8));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or_else(|| invalid(field, "this is not octal, as 0644 is"))
}

fn owner(given: Option<String>) -> Result<Option<String>, ActionError> {
    let Some(text) = given else { return Ok(None) };
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-$".contains(c))
    };
    let (user, group) = text.split_once(':').unwrap_or((&text, "x"));
    if is_name(user) && is_name(group) && text.len() <= OWNER_BYTES {
        Ok(Some(text))
    } else {
        Err(invalid("owner", "the owner is a user, or user:group"))
    }
}

fn command(name: &'static str, given: Option<String>) -> Result<Option<String>, ActionError> {
    if given.as_ref().is_some_and(|text| text.len() > COMMAND_BYTES || text.contains('\0')) {
        return Err(invalid(
            name,
            format!("this command has at most {COMMAND_BYTES} bytes and no NUL character"),
        ));
    }
    Ok(given)
}

fn timeout_ms(given: Option<String>) -> Result<u64, ActionError> {
    let timeout = match given {
        None => TIMEOUT,
        Some(text) => text
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| invalid("timeout_s", format!("'{text}' is not a number of seconds")))?,
    };
    if !(TIMEOUT_RANGE.0..=TIMEOUT_RANGE.1).contains(&timeout) {
        return Err(invalid("timeout_s", "the time limit must be 1 to 86,400 seconds"));
    }
    Ok(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod self_tests {
    use super::super::files_template::sample_values;
    use super::*;
    use crate::model::ServiceManager;

    const USER: Surroundings =
        Surroundings { service_manager: ServiceManager::Systemd, is_root: false, sudo_password: false };

    fn parse(kind: FileKind, pairs: &[(&str, &str)]) -> Result<FileChange, ActionError> {
        FileChange::parse(kind, |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_command_that_is_shown_names_everything_but_the_content() {
        let change = parse(
            FileKind::Configuration,
            &[
                ("path", "/etc/app.conf"),
                ("content", "listen 80\n"),
                ("mode", "0640"),
                ("owner", "root:app"),
                ("sudo", "true"),
                ("validate", "app -t 'x'"),
                ("reload", "systemctl reload app"),
            ],
        )
        .unwrap();
        let plan = change.plan(USER, &sample_values()).unwrap();
        let sha256 = sha256(b"listen 80\n");
        assert_eq!(
            plan.command,
            format!(
                "sudo -n sh put.sh --path /etc/app.conf --bytes 10 --sha256 {sha256} --mode 640 --owner root:app \
                 --validate \"app -t 'x'\" --reload 'systemctl reload app' <CONTENT"
            )
        );
        let (text, content) = change.sent(&plan, &sample_values()).unwrap();
        assert!(plan.sudo && text.contains("put_back") && !text.contains("listen 80"));
        assert_eq!(content, b"listen 80\n");
        assert!(!format!("{change:?}").contains("listen"));
    }

    #[test]
    fn a_template_is_a_command_of_its_own_for_each_server_and_is_not_sent_when_the_values_changed() {
        let change =
            parse(FileKind::Template, &[("path", "/etc/motd"), ("content", "{{ name }}\n")]).unwrap();
        let values = sample_values();
        let plan = change.plan(USER, &values).unwrap();
        assert!(plan.command.contains(&sha256(b"web-1\n")) && plan.command.contains("--bytes 6"));
        let other = parse(FileKind::Template, &[("path", "/etc/motd"), ("content", "{{ port }}\n")]).unwrap();
        assert!(other.sent(&plan, &values).is_err());
        let unknown =
            parse(FileKind::Template, &[("path", "/etc/motd"), ("content", "{{ metadata.role }}")]).unwrap();
        assert!(unknown.plan(USER, &values).is_err());
        assert!(parse(FileKind::Template, &[("path", "/etc/motd"), ("content", "{% set a = 1 %}")]).is_err());
    }

    #[test]
    fn what_a_form_lost_of_line_ends_is_put_right_and_what_the_api_sends_is_exact() {
        let bytes = |pairs: &[(&str, &str)]| {
            let pairs = [&[("path", "/a/b")], pairs].concat();
            parse(FileKind::Upload, &pairs).unwrap().content.bytes.to_vec()
        };
        assert_eq!(bytes(&[("text", "a\r\nb")]), b"a\nb\n");
        assert_eq!(bytes(&[("content", "a\r\nb")]), b"a\r\nb");
        assert_eq!(bytes(&[("content_base64", "AP8=\n")]), [0, 255]);
        assert_eq!(bytes(&[("content_base64", "-_-_")]), bytes(&[("content_base64", "+/+/")]));
        assert_eq!(bytes(&[("content", "")]), b"");
    }

    #[test]
    fn content_that_looks_like_a_secret_is_not_kept_with_the_operation() {
        let stored = |content: &str, more: &[(&str, &str)]| {
            let pairs = [&[("path", "/etc/x"), ("content", content)], more].concat();
            serde_json::to_value(parse(FileKind::Upload, &pairs).unwrap()).unwrap()
        };
        assert_eq!(stored("listen 80\n", &[]).get("content").unwrap(), "listen 80\n");
        let large = "x".repeat(KEPT_BYTES + 1);
        for (content, more) in [
            ("password = hunter2\n", &[][..]),
            ("-----BEGIN PRIVATE KEY-----\n", &[]),
            (&large, &[]),
            ("listen 80\n", &[("show_diff", "false")]),
        ] {
            let stored = stored(content, more);
            assert!(stored.get("content").is_none() && stored.get("content_sha256").is_some(), "{stored}");
            assert!(!stored.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let large = "x".repeat(CONTENT_LIMIT_BYTES + 1);
        for (field, pairs) in [
            ("path", vec![("content", "x")]),
            ("path", vec![("content", "x"), ("path", "etc/x")]),
            ("path", vec![("content", "x"), ("path", "/etc/")]),
            ("path", vec![("content", "x"), ("path", "/etc/../x")]),
            ("path", vec![("content", "x"), ("path", "/etc/a\nb")]),
            ("path", vec![("content", "x"), ("path", "/")]),
            ("content", vec![("path", "/x")]),
            ("content", vec![("path", "/x"), ("content", &large)]),
            ("content_base64", vec![("path", "/x"), ("content_base64", "***")]),
            ("mode", vec![("path", "/x"), ("content", ""), ("mode", "rw-r--r--")]),
            ("mode", vec![("path", "/x"), ("content", ""), ("mode", "99")]),
            ("mode", vec![("path", "/x"), ("content", ""), ("mode", "+644")]),
            ("owner", vec![("path", "/x"), ("content", ""), ("owner", "--reference=/etc/shadow")]),
            ("owner", vec![("path", "/x"), ("content", ""), ("owner", "a;id")]),
            ("validate", vec![("path", "/x"), ("content", ""), ("validate", "true")]),
            ("timeout_s", vec![("path", "/x"), ("content", ""), ("timeout_s", "0")]),
        ] {
            let Err(ActionError::Invalid { field: named, .. }) = parse(FileKind::Upload, &pairs) else {
                panic!("{field}")
            };
            assert_eq!(named, field);
        }
    }
}
