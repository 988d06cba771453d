//! The kinds of actions that a person begins on many servers by page: one table of what each is called and asked.
//!
//! A new kind is a row here and a word of [`Action::parse`](crate::actions::Action::parse); templates and handlers stay as
//! they are. Validates nothing: that is the action's business.

use crate::model::Role;

use super::operation_parameters::{Parameter, Shape};

/// One kind of action.
#[derive(Debug)]
pub struct Kind {
    /// As `Action::parse` takes it.
    pub word: &'static str,
    /// The heading that it stands under.
    pub family: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    /// Who may ask for it; the action itself says it once more.
    pub role: Role,
    /// It is begun only after the servers were typed: their name, or how many they are.
    pub is_dangerous: bool,
    pub parameters: &'static [Parameter],
}

const RUN_AS: Parameter = Parameter::line("run_as", "As another user", 128)
    .placeholder("postgres")
    .hint("With sudo; empty: the user that Roundsman logs in as.");
const DETACHED: Parameter = Parameter::new(
    "detached",
    "Detached: it goes on without its connection and without Roundsman",
    Shape::Flag,
);
// The wizard chooses servers by their environment under the other name.
const VARIABLES: Parameter = Parameter::lines("environment", "Environment variables", 16_384)
    .called("variables")
    .placeholder("NAME=value")
    .hint("One NAME=value a line.")
    .more();
const SECRET_VARIABLES: Parameter = Parameter::new(
    "secret_environment",
    "Environment variables, secret",
    Shape::SecretNames,
)
.called("secret_names")
.placeholder("API_KEY, TOKEN")
.hint("Their names; the values are asked for in the last step and stand in no process list and no record.")
.more()
.secret();
const INPUT: Parameter = Parameter::lines("stdin", "Input", 262_144)
    .hint("What it reads from its standard input; only its length is recorded.")
    .more()
    .secret();
const IN_CONTAINER: Parameter = Parameter::line("container", "In the container", 128)
    .placeholder("none")
    .hint("Its name or id, the same on every server.")
    .more();

const COMMAND: &[Parameter] = &[
    Parameter::lines("command", "Command", 65_536)
        .required()
        .placeholder("uptime")
        .hint("POSIX shell text, of one line or many."),
    AS_ROOT,
    DETACHED,
    TIME_LIMIT,
    RUN_AS.more(),
    VARIABLES,
    SECRET_VARIABLES,
    INPUT,
    IN_CONTAINER,
    ENGINE.more(),
    Parameter::line("label", "Label", 100).hint("What the lists show instead of the command.").more(),
];

const TIME_LIMIT: Parameter =
    Parameter::number("timeout_s", "Time limit in seconds", 1, 86_400).placeholder("60");

const SERVICE: &[Parameter] = &[Parameter::line("service", "Service", 256)
    .required()
    .placeholder("nginx")
    .hint("As systemd, OpenRC or the init scripts name it.")];

const PROCESSES: &[Parameter] = &[
    Parameter::line("process", "Name", 15)
        .placeholder("worker")
        .hint("The whole name without its directory, as top shows it: 15 bytes at most."),
    Parameter::line("containing", "Command line contains", 200).placeholder("--queue=mail"),
    Parameter::line("user", "Of the user", 32).placeholder("any"),
    Parameter::new(
        "signal",
        "Signal",
        Shape::Choice(&[
            ("TERM", "TERM: end"),
            ("KILL", "KILL: end at once"),
            ("HUP", "HUP: read the configuration anew"),
            ("INT", "INT"),
            ("QUIT", "QUIT"),
            ("USR1", "USR1"),
            ("USR2", "USR2"),
            ("STOP", "STOP: stand still"),
            ("CONT", "CONT: go on"),
        ]),
    ),
    Parameter::number("most", "At most so many on a server", 1, 1000)
        .placeholder("20")
        .hint("Where more are like that, nothing is sent."),
    Parameter::new("compare", "Only look: list them, send nothing", Shape::Flag),
    Parameter::number("pid", "Or one process, by its pid", 2, 4_194_304).more(),
    Parameter::line("start_ticks", "Its start, in ticks", 20)
        .hint("Field 22 of /proc/PID/stat; a process that has got the pid since then gets nothing.")
        .more(),
];

const WATCHED: &[Parameter] = &[Parameter::line("service", "Watched service", 256)
    .required()
    .placeholder("bot")
    .hint("As it is called on the Services page of each server.")];

const AGENT: &[Parameter] = &[
    Parameter::new(
        "mode",
        "How it runs",
        Shape::Choice(&[
            ("stream", "While Roundsman is connected; nothing stays running"),
            ("serve", "As a service that answers on the server’s loopback"),
            ("push", "As a service that reports to Roundsman by itself"),
        ]),
    ),
    Parameter::number("port", "Port, for a service that answers", 1024, 65_535).placeholder("8083"),
    Parameter::line("url", "Where it reports to, for a service that does", 500)
        .placeholder("https://roundsman.example.com")
        .hint("The address of Roundsman as the servers reach it."),
];

const FILE_PATH: Parameter = Parameter::line("path", "Path on the servers", 1024)
    .required()
    .placeholder("/etc/nginx/conf.d/site.conf")
    .hint("Absolute; the directory must be there. The file before stays beside it, named .roundsman-old.");
const FILE_TEXT: Parameter = Parameter::lines("text", "Content", 131_072).required();
const TEMPLATE_TEXT: Parameter = FILE_TEXT.hint(
    "Filled in for each server: {{ name }}, {{ address }}, {{ region }}, {{ environment }}, {{ tags }}, {{ metadata.rack }}; \
     {% if %} and {% for %}. What a server does not have is an error there.",
);
const PERMISSIONS: Parameter = Parameter::line("permissions", "Permissions", 4)
    .placeholder("0644")
    .hint("Empty: those of the file that is replaced.");
const OWNER: Parameter = Parameter::line("owner", "Owner", 128)
    .placeholder("root:www-data")
    .hint("Empty: that of the file that is replaced.");
const COMPARE: Parameter =
    Parameter::new("compare", "Only compare: show what differs, change nothing", Shape::Flag);
const SHOW_DIFF: Parameter = Parameter::new(
    "show_diff",
    "Lines that differ",
    Shape::Choice(&[("true", "Are shown and recorded"), ("false", "Are not: the file holds secrets")]),
)
.more();
const FILE_TIME: Parameter =
    Parameter::number("timeout_s", "Time limit in seconds", 1, 86_400).placeholder("300").more();

/// Kept nowhere, so that what is done later cannot have it.
const FILE_BYTES: Parameter =
    Parameter::new("content_base64", "Or a file of any kind", Shape::Packed { most_bytes: FILE_LIMIT_BYTES })
        .hint("At most 1 MiB; larger ones go by roundsman cp. The record keeps its size and SHA-256.")
        .secret();
/// As the action has it.
const FILE_LIMIT_BYTES: u32 = 1024 * 1024;
const _: () = assert!(FILE_LIMIT_BYTES as usize == crate::actions::CONTENT_LIMIT_BYTES);

const UPLOAD: &[Parameter] = &[
    FILE_PATH,
    Parameter::lines("text", "Content, as text", 131_072),
    FILE_BYTES,
    AS_ROOT,
    COMPARE,
    PERMISSIONS.more(),
    OWNER.more(),
    SHOW_DIFF,
    FILE_TIME,
];

const TEMPLATE: &[Parameter] =
    &[FILE_PATH, TEMPLATE_TEXT, AS_ROOT, COMPARE, PERMISSIONS.more(), OWNER.more(), SHOW_DIFF, FILE_TIME];

const CONFIGURATION: &[Parameter] = &[
    FILE_PATH,
    FILE_TEXT,
    Parameter::new("template", "Fill it in for each server, as a template", Shape::Flag),
    Parameter::line("validate", "Validation", 4096)
        .placeholder("nginx -t")
        .hint("Runs with the new file in place; the old one comes back unless it ends with 0."),
    Parameter::line("reload", "Reload", 4096)
        .placeholder("systemctl reload nginx")
        .hint("Runs after the validation; the old file comes back where it fails, too, and is reloaded."),
    AS_ROOT,
    COMPARE,
    PERMISSIONS.more(),
    OWNER.more(),
    SHOW_DIFF,
    FILE_TIME,
];

const CONTAINER: &[Parameter] = &[NAMED, ENGINE, AS_ROOT];
const CONTAINER_LOG: &[Parameter] =
    &[NAMED, ENGINE, Parameter::number("lines", "Last lines", 1, 10_000).placeholder("200"), AS_ROOT];
const CONTAINER_REMOVAL: &[Parameter] =
    &[NAMED, ENGINE, Parameter::new("force", "Even while it runs", Shape::Flag), AS_ROOT];
const CONTAINER_COMMAND: &[Parameter] = &[
    NAMED,
    ENGINE,
    Parameter::lines("command", "Command", 65_536)
        .required()
        .placeholder("id")
        .hint("POSIX shell text; the container needs a /bin/sh."),
    AS_ROOT,
    DETACHED,
    TIME_LIMIT,
    RUN_AS.hint("Inside the container; empty: its own user.").more(),
    VARIABLES,
    SECRET_VARIABLES,
    INPUT,
    Parameter::line("label", "Label", 100).hint("What the lists show instead of the command.").more(),
];
const NAMED: Parameter = Parameter::line("container", "Container", 128)
    .required()
    .placeholder("web")
    .hint("Its name or id, the same on every server.");
const ENGINE: Parameter = Parameter::new(
    "container_engine",
    "Run by",
    Shape::Choice(&[("docker", "Docker"), ("podman", "Podman")]),
);
const AS_ROOT: Parameter = Parameter::new("sudo", "As root, with sudo", Shape::Flag);

const SCRIPT: &[Parameter] = &[
    Parameter::lines("script", "Script", 131_072)
        .required()
        .hint("It is put into a private file on the server and removed when it has ended."),
    Parameter::line("interpreter", "Interpreter", 256)
        .placeholder("what stands behind #! on the first line, else sh"),
    Parameter::lines("arguments", "Arguments", 65_536).hint("One a line."),
    AS_ROOT,
    DETACHED,
    Parameter::number("timeout_s", "Time limit in seconds", 1, 86_400).placeholder("600"),
    RUN_AS.more(),
    VARIABLES,
    SECRET_VARIABLES,
    INPUT,
    IN_CONTAINER,
    ENGINE.more(),
    Parameter::line("label", "Label", 100).hint("What the lists show instead of the interpreter.").more(),
];

const PACKAGES: &[Parameter] = &[
    Parameter::line("packages", "Packages", 8_192)
        .placeholder("all that are installed")
        .hint("Names with blanks or commas between; empty: all."),
    Parameter::number("timeout_s", "Time limit in seconds", 1, 86_400).placeholder("3600"),
];

const REBOOT: &[Parameter] = &[Parameter::number("timeout_s", "Seconds to be back", 10, 7_200)
    .placeholder("600")
    .hint("It has failed where the server does not answer from another boot by then.")];

const DIAGNOSTICS: &[Parameter] = &[Parameter::new(
    "sudo",
    "As root, with sudo: more of the kernel’s messages and of others’ sockets",
    Shape::Flag,
)];

/// Every kind, in the order in which they are offered.
pub const KINDS: &[Kind] = &[
    Kind {
        word: "run_command",
        family: "Commands",
        title: "Run a command",
        about: "Shell text; equal answers are shown as one.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: COMMAND,
    },
    Kind {
        word: "run_script",
        family: "Commands",
        title: "Run a script",
        about: "With an interpreter, arguments and input.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SCRIPT,
    },
    Kind {
        word: "restart_service",
        family: "Services",
        title: "Restart a service",
        about: "Stops it and starts it again.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SERVICE,
    },
    Kind {
        word: "reload_service",
        family: "Services",
        title: "Reload a service",
        about: "It reads its configuration anew and goes on.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SERVICE,
    },
    Kind {
        word: "start_service",
        family: "Services",
        title: "Start a service",
        about: "Nothing happens where it runs already.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SERVICE,
    },
    Kind {
        word: "stop_service",
        family: "Services",
        title: "Stop a service",
        about: "Whoever uses it is cut off.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: SERVICE,
    },
    Kind {
        word: "enable_service",
        family: "Services",
        title: "Start a service at boot",
        about: "From the next boot on.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SERVICE,
    },
    Kind {
        word: "disable_service",
        family: "Services",
        title: "Do not start a service at boot",
        about: "What runs now goes on.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: SERVICE,
    },
    Kind {
        word: "restart_watched_service",
        family: "Services",
        title: "Restart a watched service",
        about: "With the commands that each server’s own page names.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: WATCHED,
    },
    Kind {
        word: "start_watched_service",
        family: "Services",
        title: "Start a watched service",
        about: "With the command that each server’s own page names.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: WATCHED,
    },
    Kind {
        word: "stop_watched_service",
        family: "Services",
        title: "Stop a watched service",
        about: "With the command that each server’s own page names.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: WATCHED,
    },
    Kind {
        word: "kill_process",
        family: "Processes",
        title: "End processes",
        about: "By their name; look first which ones that means.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: PROCESSES,
    },
    Kind {
        word: "update_configuration",
        family: "Files",
        title: "Update a configuration file",
        about: "Stored, validated, reloaded; the old one comes back when either fails.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONFIGURATION,
    },
    Kind {
        word: "upload_file",
        family: "Files",
        title: "Put a file",
        about: "The same on every server: text, or a file of up to 1 MiB.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: UPLOAD,
    },
    Kind {
        word: "upload_template",
        family: "Files",
        title: "Put a file made for each server",
        about: "A template, filled in with the server’s name, address, tags and metadata.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: TEMPLATE,
    },
    Kind {
        word: "restart_container",
        family: "Containers",
        title: "Restart a container",
        about: "Stops it and starts it again.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONTAINER,
    },
    Kind {
        word: "start_container",
        family: "Containers",
        title: "Start a container",
        about: "Nothing happens where it runs already.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONTAINER,
    },
    Kind {
        word: "stop_container",
        family: "Containers",
        title: "Stop a container",
        about: "Whoever uses it is cut off.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: CONTAINER,
    },
    Kind {
        word: "pause_container",
        family: "Containers",
        title: "Pause a container",
        about: "Its processes stand still until it is resumed.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: CONTAINER,
    },
    Kind {
        word: "unpause_container",
        family: "Containers",
        title: "Resume a container",
        about: "Its processes go on.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONTAINER,
    },
    Kind {
        word: "container_logs",
        family: "Containers",
        title: "Show the log of a container",
        about: "The last lines that it printed.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONTAINER_LOG,
    },
    Kind {
        word: "container_exec",
        family: "Containers",
        title: "Run a command in a container",
        about: "Equal answers are shown as one.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: CONTAINER_COMMAND,
    },
    Kind {
        word: "remove_container",
        family: "Containers",
        title: "Remove a container",
        about: "With everything in it that lies in no volume.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: CONTAINER_REMOVAL,
    },
    Kind {
        word: "health_check",
        family: "Whole servers",
        title: "Check the health",
        about: "A reading now, judged.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: &[],
    },
    Kind {
        word: "collect_diagnostics",
        family: "Whole servers",
        title: "Collect diagnostics",
        about: "One archive a server, kept for two weeks.",
        role: Role::Operator,
        is_dangerous: false,
        parameters: DIAGNOSTICS,
    },
    Kind {
        word: "update_packages",
        family: "Whole servers",
        title: "Update packages",
        about: "apt, dnf, yum, zypper, apk or pacman, whatever is there.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: PACKAGES,
    },
    Kind {
        word: "reboot",
        family: "Whole servers",
        title: "Reboot",
        about: "Waits until each is back.",
        role: Role::Operator,
        is_dangerous: true,
        parameters: REBOOT,
    },
    Kind {
        word: "deploy_agent",
        family: "Agent",
        title: "Deploy or upgrade the agent",
        about: "For cheaper and richer readings.",
        role: Role::Admin,
        is_dangerous: false,
        parameters: AGENT,
    },
    Kind {
        word: "remove_agent",
        family: "Agent",
        title: "Remove the agent",
        about: "The shell reads on; no file of the agent stays.",
        role: Role::Admin,
        is_dangerous: true,
        parameters: &[],
    },
];

/// Those that this role may ask for.
pub fn offered(role: Role) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| role >= kind.role)
}

/// The kind that this role may ask for by this word.
pub fn offered_as(role: Role, word: &str) -> Option<&'static Kind> {
    offered(role).find(|kind| kind.word == word)
}

/// Whether a form has a field of this name for some kind.
pub fn is_asked(field_name: &str) -> bool {
    KINDS.iter().flat_map(|kind| kind.parameters).any(|parameter| parameter.field_name == field_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::{Action, ActionError};
    use crate::web::pages::operation_form::ASKED;

    #[test]
    fn every_kind_is_a_word_that_the_actions_know() {
        for kind in KINDS {
            // Nothing told: a parameter may be missing, but the word is known.
            if let Err(ActionError::Invalid { field, message }) = Action::parse(kind.word, |_| None) {
                assert_ne!(field, "operation_type", "{}: {message}", kind.word);
                let asked: Vec<&str> = kind.parameters.iter().map(|parameter| parameter.name).collect();
                assert!(asked.contains(&field), "{} needs {field} and asks for {asked:?}", kind.word);
            }
        }
    }

    #[test]
    fn what_the_action_calls_dangerous_is_asked_for_twice_here() {
        let told =
            [("service", "a"), ("process", "a"), ("container", "a"), ("command", "a"), ("script", "a")];
        for kind in KINDS.iter().filter(|kind| kind.role == Role::Operator) {
            let given = |name: &str| {
                told.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            // Some need more than this to be meant at all.
            let Ok(action) = Action::parse(kind.word, given) else { continue };
            assert_eq!(action.danger().is_some(), kind.is_dangerous, "{}", kind.word);
        }
    }

    #[test]
    fn no_parameter_is_called_like_something_that_the_form_asks_itself() {
        for parameter in KINDS.iter().flat_map(|kind| kind.parameters) {
            assert!(!ASKED.iter().any(|(name, _)| *name == parameter.field_name), "{}", parameter.field_name);
        }
        let words: std::collections::BTreeSet<&str> = KINDS.iter().map(|kind| kind.word).collect();
        assert_eq!(words.len(), KINDS.len());
        for kind in KINDS {
            let names: std::collections::BTreeSet<&str> =
                kind.parameters.iter().map(|one| one.field_name).collect();
            assert_eq!(names.len(), kind.parameters.len(), "{} asks for something twice", kind.word);
        }
    }

    #[test]
    fn operators_are_not_offered_what_only_administrators_may_do() {
        assert!(offered(Role::Operator).all(|kind| kind.role == Role::Operator));
        assert_eq!(offered(Role::Admin).count(), KINDS.len());
        assert_eq!(offered(Role::Viewer).count(), 0);
    }
}
