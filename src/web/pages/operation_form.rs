//! What was filled in so far for a new operation, and the steps in which it is asked.
//!
//! All of it travels with the form, from step to step and back; nothing is kept by the server.

use super::operation_kinds::{Kind, is_asked};
use super::operation_parameters::Shape;

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Action,
    Targets,
    Parameters,
    Strategy,
    Confirm,
}

impl Step {
    pub const ALL: [Self; 5] = [Self::Action, Self::Targets, Self::Parameters, Self::Strategy, Self::Confirm];

    /// As the form sends it as `to`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Targets => "targets",
            Self::Parameters => "parameters",
            Self::Strategy => "strategy",
            Self::Confirm => "confirm",
        }
    }

    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Action => "What",
            Self::Targets => "Which servers",
            Self::Parameters => "Details",
            Self::Strategy => "How",
            Self::Confirm => "Look and begin",
        }
    }

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == word)
    }

    #[must_use]
    pub fn before(self) -> Option<Self> {
        Self::ALL.into_iter().rfind(|step| *step < self)
    }

    #[must_use]
    pub fn after(self) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step > self)
    }
}

/// What the form asks whatever the action is, and in which step. No parameter of an action may be called like one of these.
pub const ASKED: [(&str, Step); 16] = [
    ("operation_type", Step::Action),
    ("server", Step::Targets),
    ("group", Step::Targets),
    ("tag", Step::Targets),
    ("region", Step::Targets),
    ("environment", Step::Targets),
    ("health", Step::Targets),
    ("status", Step::Targets),
    ("all", Step::Targets),
    ("parallelism", Step::Strategy),
    ("batches", Step::Strategy),
    ("pause_s", Step::Strategy),
    ("max_failures", Step::Strategy),
    ("health_gate_s", Step::Strategy),
    ("by_dependencies", Step::Strategy),
    ("when_busy", Step::Strategy),
];

/// Before the name of a variable: the field of its secret value.
pub const SECRET_PREFIX: &str = "secret.";

/// Ways over the servers that are filled in with one press: the word, its title, and the values.
pub const PRESETS: [Preset; 4] = [
    Preset { word: "at-once", title: "All at once", values: &[] },
    Preset {
        word: "one-by-one",
        title: "One by one, stop at the first failure",
        values: &[("batches", "1"), ("max_failures", "1")],
    },
    Preset {
        word: "canary",
        title: "One first, then a tenth, then the rest",
        values: &[("batches", "1,10%,100%"), ("max_failures", "1"), ("health_gate_s", "120")],
    },
    Preset {
        word: "needed-first",
        title: "In the order of dependencies",
        values: &[("by_dependencies", "true"), ("health_gate_s", "120")],
    },
];

#[derive(Debug, Clone, Copy)]
pub struct Preset {
    pub word: &'static str,
    pub title: &'static str,
    values: &'static [(&'static str, &'static str)],
}

/// The values of the form by name; one that is not there is empty. Unknown names are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationForm(Vec<(String, String)>);

impl OperationForm {
    /// From the pairs of a form or of an address. Servers may be named one by one (check boxes) or together.
    #[must_use]
    pub fn of(pairs: Vec<(String, String)>) -> Self {
        let mut kept: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let is_known = ASKED.iter().any(|(asked, _)| *asked == name)
                || is_asked(&name)
                || name.starts_with(SECRET_PREFIX);
            if !is_known || value.trim().is_empty() {
                continue;
            }
            // Browsers send line ends as CR LF, which no shell understands.
            let value = value.replace("\r\n", "\n");
            match kept.iter_mut().find(|(known, _)| *known == name && name == "server") {
                Some((_, servers)) => {
                    servers.push_str(", ");
                    servers.push_str(&value);
                }
                None => kept.push((name, value)),
            }
        }
        Self(kept)
    }

    /// Without blanks around it.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// Every value of this name.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        let given = self.0.iter().filter(|(key, _)| key == name);
        given.map(|(_, value)| value.trim().to_owned()).collect()
    }

    /// A parameter of this kind of action as the action is told it. None: it was not filled in, or the kind does not ask for it.
    #[must_use]
    pub fn parameter(&self, kind: &Kind, name: &str) -> Option<String> {
        let asked = kind.parameters.iter().find(|parameter| parameter.name == name)?;
        let (_, value) = self.0.iter().find(|(key, _)| key == asked.field_name)?;
        Some(match asked.shape {
            Shape::Lines { .. } => value.clone(),
            Shape::SecretNames => self.secrets(kind).to_string(),
            _ => value.trim().to_owned(),
        })
    }

    /// As the parameter stands in its field.
    #[must_use]
    pub fn typed(&self, field_name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == field_name).map_or("", |(_, value)| value)
    }

    /// Names of the secret variables that this kind of action is to have, each once.
    #[must_use]
    pub fn secret_names(&self, kind: &Kind) -> Vec<&str> {
        let asked = kind.parameters.iter().find(|parameter| parameter.shape == Shape::SecretNames);
        let typed = asked.map_or("", |parameter| self.typed(parameter.field_name));
        let mut names: Vec<&str> = Vec::new();
        for name in typed.split([',', ' ', '\t', '\n']).filter(|name| !name.is_empty()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The value of a secret variable. None: it was not given (yet).
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<&str> {
        let is_it = |key: &str| key.strip_prefix(SECRET_PREFIX) == Some(name);
        self.0.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value.as_str())
    }

    fn secrets(&self, kind: &Kind) -> serde_json::Value {
        let value = |name: &str| self.secret(name).unwrap_or_default();
        self.secret_names(kind).into_iter().map(|name| (name, value(name))).collect()
    }

    /// With the values of a preset in place of what was said about the way over the servers.
    #[must_use]
    pub fn with_preset(mut self, word: &str) -> Self {
        let Some(preset) = PRESETS.into_iter().find(|preset| preset.word == word) else { return self };
        let is_way = |name: &str| name != "when_busy" && ASKED.contains(&(name, Step::Strategy));
        self.0.retain(|(name, _)| !is_way(name));
        let values = preset.values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.extend(values);
        self
    }

    /// What is not asked in this step and goes along unseen.
    #[must_use]
    pub fn elsewhere(&self, step: Step, kind: Option<&Kind>) -> Vec<(String, String)> {
        let is_shown = |name: &str| match ASKED.iter().find(|(asked, _)| *asked == name) {
            Some((_, at)) => *at == step,
            None => {
                step == Step::Parameters
                    && kind.is_some_and(|kind| kind.parameters.iter().any(|one| one.field_name == name))
            }
        };
        // A secret value is asked for on the page that sends it, and never comes back.
        let goes_along = |name: &str| !is_shown(name) && !name.starts_with(SECRET_PREFIX);
        self.0.iter().filter(|(name, _)| goes_along(name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::operation_kinds::KINDS;

    fn form(pairs: &[(&str, &str)]) -> OperationForm {
        OperationForm::of(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    fn kind(word: &str) -> &'static Kind {
        KINDS.iter().find(|kind| kind.word == word).unwrap()
    }

    #[test]
    fn servers_that_were_ticked_and_servers_that_were_typed_are_one_list() {
        let form = form(&[("server", "web-1"), ("server", "web-2"), ("foreign", "x"), ("tag", " ")]);
        assert_eq!(form.text("server"), "web-1, web-2");
        assert_eq!(form.elsewhere(Step::Action, None).len(), 1, "nothing unknown and nothing empty");
    }

    #[test]
    fn a_step_hides_what_the_others_ask_and_nothing_is_lost() {
        let form = form(&[
            ("operation_type", "run_command"),
            ("command", "  id\r\n"),
            ("service", "nginx"),
            ("environment", "production"),
            ("batches", "1"),
        ]);
        let names = |step| -> Vec<String> {
            form.elsewhere(step, Some(kind("run_command"))).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(Step::Parameters), ["operation_type", "service", "environment", "batches"]);
        assert_eq!(names(Step::Strategy), ["operation_type", "command", "service", "environment"]);
        assert_eq!(names(Step::Confirm).len(), 5);
        assert_eq!(form.parameter(kind("run_command"), "command").unwrap(), "  id\n");
        assert_eq!(form.parameter(kind("run_command"), "service"), None, "another kind asks for it");
        assert_eq!(form.parameter(kind("run_command"), "environment"), None, "that chooses servers");
    }

    #[test]
    fn secret_variables_are_named_early_and_their_values_go_along_on_no_page() {
        let form = form(&[
            ("variables", "A=1"),
            ("secret_names", "KEY, TOKEN KEY"),
            ("secret.KEY", "a b "),
            ("environment", "production"),
        ]);
        let kind = kind("run_script");
        assert_eq!(form.secret_names(kind), ["KEY", "TOKEN"]);
        assert_eq!((form.secret("KEY"), form.secret("TOKEN")), (Some("a b "), None));
        assert_eq!(form.parameter(kind, "secret_environment").unwrap(), r#"{"KEY":"a b ","TOKEN":""}"#);
        assert_eq!(form.parameter(kind, "environment").unwrap(), "A=1");
        for step in Step::ALL {
            let hidden = form.elsewhere(step, Some(kind));
            assert!(hidden.iter().all(|(name, value)| name != "secret.KEY" && value != "a b "), "{step:?}");
        }
        let action = crate::actions::Action::parse("run_script", |name| match name {
            "script" => Some("id".to_owned()),
            other => form.parameter(kind, other),
        });
        assert!(!format!("{:?}", action.unwrap()).contains("a b "));
    }

    #[test]
    fn a_preset_replaces_the_way_and_keeps_the_rest() {
        let form =
            form(&[("batches", "50%"), ("pause_s", "9"), ("when_busy", "queue"), ("service", "nginx")]);
        let canary = form.clone().with_preset("canary");
        assert_eq!((canary.text("batches"), canary.text("pause_s")), ("1,10%,100%", ""));
        assert_eq!((canary.text("when_busy"), canary.text("service")), ("queue", "nginx"));
        assert_eq!(form.clone().with_preset("nonsense"), form);
    }

    #[test]
    fn the_steps_follow_each_other() {
        assert_eq!(Step::Action.before(), None);
        assert_eq!(Step::Action.after(), Some(Step::Targets));
        assert_eq!(Step::Confirm.before(), Some(Step::Strategy));
        assert!(Step::ALL.into_iter().all(|step| Step::parse(step.name()) == Some(step)));
    }
}
