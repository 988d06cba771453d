//! Which of the known forms a text has.

use super::ssh_config::is_keyword;
use crate::model::shown;

/// A form that servers can be imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The client configuration of OpenSSH, ssh_config(5).
    SshConfig,
    AnsibleIni,
    AnsibleYaml,
    /// Comma, semicolon or tab, with a line of names.
    Csv,
    /// A list of objects with the field names of the API.
    Json,
    /// `user@host:port` and options, one server a line.
    Lines,
}

impl Format {
    pub const ALL: [Self; 6] =
        [Self::SshConfig, Self::AnsibleIni, Self::AnsibleYaml, Self::Csv, Self::Json, Self::Lines];

    /// As the API and the command line spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SshConfig => "ssh_config",
            Self::AnsibleIni => "ansible_ini",
            Self::AnsibleYaml => "ansible_yaml",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Lines => "lines",
        }
    }

    /// As a person reads it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::SshConfig => "OpenSSH client configuration",
            Self::AnsibleIni => "Ansible inventory (INI)",
            Self::AnsibleYaml => "Ansible inventory (YAML)",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Lines => "Lines",
        }
    }
}

/// The word is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a format; use auto, ssh_config, ansible_ini, ansible_yaml, csv, json or lines")]
pub struct UnknownFormat(String);

impl Format {
    /// `auto` and nothing at all mean: find out.
    ///
    /// # Errors
    /// [`UnknownFormat`] with the words that would be accepted.
    pub fn parse(text: &str) -> Result<Option<Self>, UnknownFormat> {
        let word = text.trim().to_ascii_lowercase().replace('-', "_");
        match word.as_str() {
            "" | "auto" => Ok(None),
            word => Self::ALL
                .into_iter()
                .find(|format| format.name() == word)
                .map(Some)
                .ok_or_else(|| UnknownFormat(shown(text, 40))),
        }
    }
}

/// A guess that a person can overrule. Decided by the first lines that say something.
pub(super) fn format_of(text: &str) -> Format {
    let trimmed = text.trim_start_matches('\u{feff}').trim_start();
    if trimmed.starts_with('{') {
        return Format::Json;
    }
    if let Some(rest) = trimmed.strip_prefix('[')
        && rest.trim_start().starts_with(['{', ']', '"'])
    {
        return Format::Json;
    }
    let lines: Vec<&str> = trimmed
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with(['#', ';']))
        .collect();
    let Some(first) = lines.first() else { return Format::Lines };
    if *first == "---" || first.ends_with(':') && !first.contains(' ') {
        return Format::AnsibleYaml;
    }
    if lines.iter().any(|line| is_section(line) || has_variable(line)) {
        return Format::AnsibleIni;
    }
    if is_ssh_option(first) {
        return Format::SshConfig;
    }
    if super::table::has_header(first) { Format::Csv } else { Format::Lines }
}

fn is_section(line: &str) -> bool {
    let inside = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // `[fd00::5]` alone is an address.
    inside.is_some_and(|name| {
        !name.is_empty() && name.parse::<std::net::Ipv6Addr>().is_err() && !name.contains(' ')
    })
}

/// `web ansible_host=10.0.0.1`
fn has_variable(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.any(|word| word.split_once('=').is_some_and(|(name, _)| name.starts_with("ansible_")))
}

/// `Host web` is a line of ssh_config, `host name=web` is a server called host.
fn is_ssh_option(line: &str) -> bool {
    let line = line.trim_start();
    let Some((keyword, rest)) = line.split_once([' ', '\t', '=']) else { return false };
    is_keyword(keyword) && !super::lines::has_option(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart_by_their_first_lines() {
        for (text, format) in [
            ("# mine\nHost web\n  HostName 10.0.0.1\n", Format::SshConfig),
            ("ServerAliveInterval 60\nHost *\n", Format::SshConfig),
            ("Include ~/.ssh/work/*\n", Format::SshConfig),
            ("web1\n[web]\nweb2\n", Format::AnsibleIni),
            ("web1 ansible_host=10.0.0.1\n", Format::AnsibleIni),
            ("all:\n  hosts:\n    web1:\n", Format::AnsibleYaml),
            ("---\nweb:\n  hosts:\n", Format::AnsibleYaml),
            ("name;hostname;port\nweb;10.0.0.1;22\n", Format::Csv),
            ("Host,Tags\nweb,\"a,b\"\n", Format::Csv),
            ("[{\"hostname\": \"web\"}]", Format::Json),
            ("{\"servers\": []}", Format::Json),
            ("[\n  {\"hostname\": \"web\"}]", Format::Json),
            ("root@10.0.0.1:22\n", Format::Lines),
            ("[fd00::5]\n", Format::Lines),
            ("host name=web tags=a,b\n", Format::Lines),
            ("", Format::Lines),
        ] {
            assert_eq!(format_of(text), format, "{text}");
        }
    }

    #[test]
    fn a_format_is_named_or_left_to_be_found_out() {
        assert_eq!(Format::parse("ansible-yaml"), Ok(Some(Format::AnsibleYaml)));
        assert_eq!(Format::parse("auto"), Ok(None));
        assert!(Format::parse("xml").unwrap_err().to_string().contains("ssh_config"));
    }
}
