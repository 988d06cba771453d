//! What an action has to be told, as a form asks for it: the name, the shape and the words around it.
//!
//! Which kind of action asks for what is said in [`super::operation_kinds`]; what is valid is the action's business.

use super::Choice;
use super::form::{Field, FieldProblem};

/// As many names as a command may have variables, of usual length.
const SECRET_NAMES_CHARS: u32 = 2048;

/// One thing that an action has to be told, under the name that `Action::parse` asks for.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// What the form calls it, where the wizard asks for something else by its name.
    pub field_name: &'static str,
    label: &'static str,
    pub shape: Shape,
    placeholder: &'static str,
    hint: &'static str,
    is_required: bool,
    /// Seldom said: stands below a fold.
    pub is_more: bool,
    /// It is stored nowhere, so what is done later cannot have it.
    pub is_secret: bool,
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
    /// Names of variables whose values are asked for in the last step, and stand on no page.
    SecretNames,
    /// Any bytes, as a file that is chosen; in Base64 on the way.
    Packed {
        most_bytes: u32,
    },
    /// One of these words, each with its title.
    Choice(&'static [(&'static str, &'static str)]),
}

impl Parameter {
    pub(super) const fn new(name: &'static str, label: &'static str, shape: Shape) -> Self {
        Self {
            name,
            field_name: name,
            label,
            shape,
            placeholder: "",
            hint: "",
            is_required: false,
            is_more: false,
            is_secret: false,
        }
    }

    pub(super) const fn line(name: &'static str, label: &'static str, most_chars: u32) -> Self {
        Self::new(name, label, Shape::Line { most_chars })
    }

    pub(super) const fn lines(name: &'static str, label: &'static str, most_chars: u32) -> Self {
        Self::new(name, label, Shape::Lines { most_chars })
    }

    pub(super) const fn number(name: &'static str, label: &'static str, least: u32, most: u32) -> Self {
        Self::new(name, label, Shape::Number { least, most })
    }

    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub(super) const fn placeholder(mut self, text: &'static str) -> Self {
        self.placeholder = text;
        self
    }

    pub(super) const fn hint(mut self, text: &'static str) -> Self {
        self.hint = text;
        self
    }

    pub(super) const fn called(mut self, field_name: &'static str) -> Self {
        self.field_name = field_name;
        self
    }

    pub(super) const fn more(mut self) -> Self {
        self.is_more = true;
        self
    }

    pub(super) const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// As a form shows it, with what the action found wrong with it.
    #[must_use]
    pub fn asked(&self, value: &str, problems: &[FieldProblem]) -> Field {
        let mine = problems.iter().filter(|problem| problem.field == self.name);
        let renamed =
            mine.map(|problem| FieldProblem { field: self.field_name.to_owned(), ..problem.clone() });
        self.field(value).judged(&renamed.collect::<Vec<_>>())
    }

    fn field(&self, value: &str) -> Field {
        let (name, label) = (self.field_name, self.label);
        let field = match self.shape {
            Shape::Line { most_chars } => Field::line(name, label, value, most_chars),
            Shape::SecretNames => Field::line(name, label, value, SECRET_NAMES_CHARS),
            Shape::Lines { most_chars } => Field::lines(name, label, value, most_chars),
            Shape::Number { least, most } => Field::number(name, label, value, least, most),
            Shape::Packed { most_bytes } => Field::packed(name, label, value, most_bytes),
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
