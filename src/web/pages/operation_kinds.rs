//! The kinds of actions that a person begins on many servers by page: one table of what each is called and asked.
//!
//! A new kind is a row here and a word of [`Action::parse`](crate::actions::Action::parse); templates and handlers stay as
//! they are. Validates nothing: that is the action's business.

use crate::model::Role;

use super::Choice;
use super::form::Field;

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

/// One thing that an action has to be told, under the name that `Action::parse` asks for.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    label: &'static str,
    pub shape: Shape,
    placeholder: &'static str,
    hint: &'static str,
    is_required: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    Line {
        most_chars: u32,
    },
    /// Kept as it was typed, blanks and line ends too.
    Lines {
        most_chars: u32,
    },
    Number {
        least: u32,
        most: u32,
    },
    /// `true`, or nothing.
    Flag,
    /// One of these words, each with its title.
    Choice(&'static [(&'static str, &'static str)]),
}

impl Parameter {
    const fn new(name: &'static str, label: &'static str, shape: Shape) -> Self {
        Self { name, label, shape, placeholder: "", hint: "", is_required: false }
    }

    const fn line(name: &'static str, label: &'static str, most_chars: u32) -> Self {
        Self::new(name, label, Shape::Line { most_chars })
    }

    const fn lines(name: &'static str, label: &'static str, most_chars: u32) -> Self {
        Self::new(name, label, Shape::Lines { most_chars })
    }

    const fn number(name: &'static str, label: &'static str, least: u32, most: u32) -> Self {
        Self::new(name, label, Shape::Number { least, most })
    }

    const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    const fn placeholder(mut self, text: &'static str) -> Self {
        self.placeholder = text;
        self
    }

    const fn hint(mut self, text: &'static str) -> Self {
        self.hint = text;
        self
    }

    /// As a form shows it.
    #[must_use]
    pub fn field(&self, value: &str) -> Field {
        let (name, label) = (self.name, self.label);
        let field = match self.shape {
            Shape::Line { most_chars } => Field::line(name, label, value, most_chars),
            Shape::Lines { most_chars } => Field::lines(name, label, value, most_chars),
            Shape::Number { least, most } => Field::number(name, label, value, least, most),
            Shape::Flag => Field::flag(name, label, value == "true"),
            Shape::Choice(words) => {
                let choices = words.iter().map(|(word, title)| Choice::of(word, title, value));
                Field::choice(name, label, choices.collect())
            }
        };
        let field = field.placeholder(self.placeholder).hint(self.hint);
        if self.is_required { field.required() } else { field }
    }
}

const COMMAND: &[Parameter] = &[
    Parameter::lines("command", "Command", 65_536)
        .required()
        .placeholder("uptime")
        .hint("POSIX shell text, of one line or many."),
    Parameter::new("sudo", "As root, with sudo", Shape::Flag),
    Parameter::line("run_as", "As another user", 128)
        .placeholder("postgres")
        .hint("With sudo; empty: the user that Roundsman logs in as."),
    Parameter::number("timeout_s", "Time limit in seconds", 1, 86_400).placeholder("60"),
    Parameter::line("label", "Label", 100).hint("What the lists show instead of the command."),
];

const SERVICE: &[Parameter] = &[Parameter::line("service", "Service", 256)
    .required()
    .placeholder("nginx")
    .hint("As systemd, OpenRC or the init scripts name it.")];

const AGENT: &[Parameter] = &[
    Parameter::new(
        "mode",
        "How it runs",
        Shape::Choice(&[
            ("stream", "While Roundsman is connected; nothing stays running"),
            ("serve", "As a service that answers on the server’s loopback"),
        ]),
    ),
    Parameter::number("port", "Port, for a service", 1024, 65_535).placeholder("8083"),
];

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

/// The parameter of this name, of whatever kind.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    KINDS.iter().flat_map(|kind| kind.parameters).find(|parameter| parameter.name == name)
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
    fn no_parameter_is_called_like_something_that_the_form_asks_itself() {
        for parameter in KINDS.iter().flat_map(|kind| kind.parameters) {
            assert!(!ASKED.iter().any(|(name, _)| *name == parameter.name), "{}", parameter.name);
        }
        let words: std::collections::BTreeSet<&str> = KINDS.iter().map(|kind| kind.word).collect();
        assert_eq!(words.len(), KINDS.len());
    }

    #[test]
    fn operators_are_not_offered_what_only_administrators_may_do() {
        assert!(offered(Role::Operator).all(|kind| kind.role == Role::Operator));
        assert_eq!(offered(Role::Admin).count(), KINDS.len());
        assert_eq!(offered(Role::Viewer).count(), 0);
    }
}
