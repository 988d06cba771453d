//! The content of a file made for one server: a template and what is known of the server.
//!
//! Pure. A template is text that a person sent, so it can do little: print values, choose with `if`, repeat with `for`, a few
//! filters. What could grow without bound (assignments, macros, multiplication, calls) is refused by its syntax tree before
//! anything is compiled, and the rest is counted: instructions, bytes.

use std::collections::BTreeMap;
use std::io;

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};
use minijinja::machinery::{Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, filters, tests};
use serde::Serialize;

use super::files::CONTENT_LIMIT_BYTES;
use super::{ActionError, invalid};
use crate::model::{Server, shown};

/// Longest template; what is larger is a file to be uploaded as it is.
const TEMPLATE_LIMIT_BYTES: usize = 64 * 1024;
/// Words and signs in one `{{ … }}` or `{% … %}`: keeps the tree flat and every value small.
const TOKENS: usize = 400;
/// How deep expressions, loops and choices may lie in each other.
const DEPTH: usize = 40;
/// Instructions of one rendering; a page of settings takes some hundreds.
const FUEL: u64 = 20_000;
/// What a filter may make of one value.
const VALUE_BYTES: usize = 256 * 1024;
const REASON_CHARS: usize = 300;

/// What a template may name. What is not known is not there, so a template that prints it does not render.
#[derive(Debug, Clone, Serialize)]
pub struct TemplateValues {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    description: String,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
}

impl From<&Server> for TemplateValues {
    fn from(server: &Server) -> Self {
        Self {
            name: server.name.to_string(),
            address: server.hostname.clone(),
            port: server.port.get(),
            region: server.region.clone(),
            environment: server.environment.clone(),
            description: server.description.clone(),
            tags: server.tags.iter().map(ToString::to_string).collect(),
            metadata: server.metadata.clone(),
        }
    }
}

fn bad(message: impl Into<String>) -> ActionError {
    invalid("content", message)
}

/// Without the parser's own framing; the line stands in front.
fn sentence(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    let what = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    format!("{line}{}", shown(&what, REASON_CHARS))
}

fn syntax() -> Result<SyntaxConfig, ActionError> {
    SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(|error| bad(sentence(&error)))
}

/// Whether a text is a template that may be rendered at all.
///
/// # Errors
/// [`ActionError::Invalid`] names the line and what is wrong with it.
pub(super) fn check(source: &str) -> Result<(), ActionError> {
    if source.len() > TEMPLATE_LIMIT_BYTES {
        return Err(bad(format!("a template has at most {TEMPLATE_LIMIT_BYTES} bytes")));
    }
    let mut inside = 0;
    for token in tokenize(source, false, syntax()?) {
        match token.map_err(|error| bad(format!("the template cannot be read: {}", sentence(&error))))? {
            (Token::VariableEnd | Token::BlockEnd | Token::TemplateData(_), _) => inside = 0,
            (_, span) => {
                inside += 1;
                if inside > TOKENS {
                    return Err(bad(format!(
                        "line {}: an expression has at most {TOKENS} words and signs",
                        span.start_line
                    )));
                }
            }
        }
    }
    let tree = parse(source, "file", syntax()?)
        .map_err(|error| bad(format!("the template cannot be read: {}", sentence(&error))))?;
    statement(&tree, DEPTH)
}

fn statements(all: &[Stmt<'_>], depth: usize) -> Result<(), ActionError> {
    all.iter().try_for_each(|one| statement(one, depth))
}

/// A statement that only prints, chooses or repeats.
fn statement(one: &Stmt<'_>, depth: usize) -> Result<(), ActionError> {
    let below = depth.checked_sub(1).ok_or_else(|| bad("the template is nested too deeply"))?;
    match one {
        Stmt::Template(template) => statements(&template.children, below),
        Stmt::EmitRaw(_) => Ok(()),
        Stmt::EmitExpr(print) => expression(&print.expr, below),
        Stmt::IfCond(choice) => {
            expression(&choice.expr, below)?;
            statements(&choice.true_body, below)?;
            // A chain of elif lies in the else of the one before.
            statements(&choice.false_body, below)
        }
        Stmt::ForLoop(each) if !each.recursive => {
            expression(&each.target, below)?;
            expression(&each.iter, below)?;
            each.filter_expr.iter().try_for_each(|filter| expression(filter, below))?;
            statements(&each.body, below)?;
            statements(&each.else_body, below)
        }
        _ => Err(bad("a template here knows {{ value }}, {% if %} and {% for %} only")),
    }
}

fn expressions<'a>(all: impl IntoIterator<Item = &'a Expr<'a>>, depth: usize) -> Result<(), ActionError> {
    all.into_iter().try_for_each(|one| expression(one, depth))
}

fn arguments(all: &[CallArg<'_>], depth: usize) -> Result<(), ActionError> {
    all.iter().try_for_each(|one| match one {
        CallArg::Pos(value) | CallArg::Kwarg(_, value) => expression(value, depth),
        CallArg::PosSplat(_) | CallArg::KwargSplat(_) => Err(bad("a template here has no * arguments")),
    })
}

/// An expression whose value is not larger than what it is made of.
fn expression(one: &Expr<'_>, depth: usize) -> Result<(), ActionError> {
    let below = depth.checked_sub(1).ok_or_else(|| bad("the template is nested too deeply"))?;
    match one {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::Slice(slice) => {
            expression(&slice.expr, below)?;
            expressions(slice.start.iter().chain(&slice.stop).chain(&slice.step), below)
        }
        Expr::UnaryOp(sign) => expression(&sign.expr, below),
        // A multiplied text has a hundred million characters.
        Expr::BinOp(pair) if matches!(pair.op, BinOpKind::Mul | BinOpKind::Pow) => {
            Err(bad("a template here cannot multiply; repeat with {% for %}"))
        }
        Expr::BinOp(pair) => expressions([&pair.left, &pair.right], below),
        Expr::Compare(chain) => {
            expression(&chain.expr, below)?;
            expressions(chain.ops.iter().map(|step| &step.expr), below)
        }
        Expr::IfExpr(choice) => {
            expressions([&choice.test_expr, &choice.true_expr], below)?;
            expressions(choice.false_expr.iter(), below)
        }
        Expr::Filter(filter) => {
            expressions(filter.expr.iter(), below)?;
            arguments(&filter.args, below)
        }
        Expr::Test(test) => {
            expression(&test.expr, below)?;
            arguments(&test.args, below)
        }
        Expr::GetAttr(part) => expression(&part.expr, below),
        Expr::GetItem(part) => expressions([&part.expr, &part.subscript_expr], below),
        Expr::List(list) => expressions(&list.items, below),
        Expr::Tuple(tuple) => expressions(&tuple.items, below),
        Expr::Map(map) => expressions(map.keys.iter().chain(&map.values), below),
        Expr::Call(_) => Err(bad("a template here calls no functions; filters are written with |")),
    }
}

/// The content for one server. The template was found good by [`check`].
///
/// # Errors
/// [`ActionError::Invalid`] says which line names what this server does not have, or which limit it passes.
pub(super) fn render(source: &str, values: &TemplateValues) -> Result<Vec<u8>, ActionError> {
    check(source)?;
    let mut environment = Environment::empty();
    environment.set_syntax(syntax()?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("default", filters::default);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("length", filters::length);
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("undefined", tests::is_undefined);
    let does_not =
        |error: &minijinja::Error| bad(format!("the template does not render here: {}", explained(error)));
    let template = environment.template_from_named_str("file", source).map_err(|error| does_not(&error))?;
    let mut output = Bounded(Vec::new());
    template
        .render_captured_to(Value::from(minijinja::value::Serde(values)), &mut output)
        .map_err(|error| does_not(&error))?;
    Ok(output.0)
}

fn explained(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
        ErrorKind::WriteFailure => format!("it makes more than {CONTENT_LIMIT_BYTES} bytes"),
        _ => sentence(error),
    }
}

fn too_large() -> minijinja::Error {
    minijinja::Error::new(
        ErrorKind::InvalidOperation,
        format!("a value of a template has at most {VALUE_BYTES} bytes"),
    )
}

fn join(list: Vec<String>, between: Option<String>) -> Result<String, minijinja::Error> {
    let between = between.unwrap_or_default();
    let length: usize = list.iter().map(|text| text.len() + between.len()).sum();
    if length > VALUE_BYTES { Err(too_large()) } else { Ok(list.join(&between)) }
}

fn replace(text: String, old: String, new: String) -> Result<String, minijinja::Error> {
    if old.is_empty() {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "replace needs a text to look for"));
    }
    let grown = text.len() + text.matches(&old).count().saturating_mul(new.len());
    if grown > VALUE_BYTES { Err(too_large()) } else { Ok(text.replace(&old, &new)) }
}

/// Takes no more than a file may have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > CONTENT_LIMIT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) fn sample_values() -> TemplateValues {
    TemplateValues {
        name: "web-1".to_owned(),
        address: Some("10.0.0.5".to_owned()),
        port: 22,
        region: Some("eu".to_owned()),
        environment: None,
        description: String::new(),
        tags: vec!["prod".to_owned(), "web".to_owned()],
        metadata: [("rack".to_owned(), "b7 <&>".to_owned())].into(),
    }
}

#[cfg(test)]
mod self_tests {
    use super::*;

    fn made(source: &str) -> Result<String, String> {
        render(source, &sample_values())
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_is_filled_with_what_is_known_of_the_server() {
        let cases = [
            ("host = {{ name }} # {{ address }}:{{ port }}\n", "host = web-1 # 10.0.0.5:22\n"),
            ("{{ tags | join(',') }}|{{ tags | length }}|{{ name | upper }}", "prod,web|2|WEB-1"),
            ("{{ metadata.rack }}", "b7 <&>"),
            ("{{ environment | default('none') }}", "none"),
            ("{% if 'web' in tags %}yes{% else %}no{% endif %}", "yes"),
            ("{% if environment is defined %}{{ environment }}{% else %}-{% endif %}", "-"),
            ("{% for tag in tags %}[{{ loop.index }}{{ tag }}]{% endfor %}", "[1prod][2web]"),
            ("{{ name | replace('web', 'host') }}{# said to nobody #}", "host-1"),
            ("{{ '{{' }} $labels", "{{ $labels"),
            ("no newline at the end", "no newline at the end"),
        ];
        for (source, expected) in cases {
            assert_eq!(made(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_is_not_known_fails_with_its_line() {
        for (source, part) in [
            ("a\n{{ environment }}", "line 2"),
            ("{{ metadata.role }}", "line 1"),
            ("{% if environment %}x{% endif %}", "line 1"),
            ("{{ nmae }}", "line 1"),
            ("{{ name | shout }}", "line 1"),
        ] {
            let said = made(source).unwrap_err();
            assert!(said.contains(part) && said.contains("does not render here"), "{source}: {said}");
        }
    }

    #[test]
    fn what_could_grow_without_bound_is_refused_before_it_is_compiled() {
        let chain = format!("{{{{ name{} }}}}", " ~ name".repeat(5000));
        let deep = format!("{}x{}", "{% if name %}".repeat(100), "{% endif %}".repeat(100));
        for source in [
            "{{ 'x' * 100000000 }}",
            "{{ 9 ** 99999999 }}",
            "{% set a = name ~ name %}{{ a }}",
            "{% set a %}x{% endset %}",
            "{% with a = name ~ name %}{{ a }}{% endwith %}",
            "{% filter upper %}x{% endfilter %}",
            "{% for tag in tags recursive %}{{ loop(tags) }}{% endfor %}",
            "{% for n in range(99999) %}x{% endfor %}",
            "{{ name.replace('a', 'b') }}",
            "{{ name | join(*tags) }}",
            "{{ name",
            "{% if %}",
            &chain,
            &deep,
            &"x".repeat(TEMPLATE_LIMIT_BYTES + 1),
        ] {
            let shown: String = source.chars().take(60).collect();
            assert!(check(source).is_err(), "{shown}");
        }
    }

    #[test]
    fn a_template_that_works_too_long_or_makes_too_much_is_stopped() {
        let loops = "{% for a in name %}".repeat(12) + "x" + &"{% endfor %}".repeat(12);
        assert!(made(&loops).unwrap_err().contains("too many steps"));
        let text = "y".repeat(50_000);
        let much = format!("{{% for a in name %}}{{% for b in name %}}{text}{{% endfor %}}{{% endfor %}}");
        assert!(made(&much).unwrap_err().contains("more than"), "{:?}", made(&much).map(|text| text.len()));
        let long = format!("{{{{ '{}' | replace('z', '{}') }}}}", "z".repeat(20_000), "z".repeat(20_000));
        assert!(made(&long).unwrap_err().contains("at most"));
    }
}
