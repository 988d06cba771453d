//! YAML as a tree with line numbers, bounded: depth, nodes, and what aliases come to.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Nested deeper is no inventory.
const DEPTH: usize = 40;
/// Nodes of one document, those that aliases repeat included: ten lines of aliases can mean a billion nodes.
const NODES: usize = 300_000;
/// A text counts as one more node for as many bytes: an alias may repeat one long word thousands of times.
const BYTES_OF_NODE: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar {
        text: String,
        is_plain: bool,
        /// Of `!tag`, without the `!`.
        tag: Option<String>,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Why a text is no YAML that is read here.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, is_plain: true, .. } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    fn size(&self) -> usize {
        1 + match &self.kind {
            Kind::Scalar { text, tag, .. } => {
                (text.len() + tag.as_ref().map_or(0, String::len)) / BYTES_OF_NODE
            }
            Kind::List(items) => items.iter().map(Self::size).sum(),
            Kind::Map(pairs) => pairs.iter().map(|(key, value)| key.size() + value.size()).sum(),
        }
    }
}

/// The first document of a text; an empty text is null.
pub(super) fn parse(text: &str) -> Result<Node, Unreadable> {
    let mut builder =
        Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, line: 1 };
    loop {
        match builder.next()? {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => {
                let kind = Kind::Scalar { text: String::new(), is_plain: true, tag: None };
                return Ok(Node { line: 1, kind });
            }
            event => return builder.node(event, 0),
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    line: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Event<'a>, Unreadable> {
        match self.parser.next() {
            Some(Ok((event, Span { start, .. }))) => {
                self.line = start.line().max(1);
                Ok(event)
            }
            Some(Err(error)) => Err(Unreadable {
                line: error.marker().line().max(1),
                message: format!("this is no YAML: {}", super::word(error.info())),
            }),
            None => Err(self.refused("this is no YAML: it breaks off")),
        }
    }

    fn refused(&self, message: &str) -> Unreadable {
        Unreadable { line: self.line, message: message.to_owned() }
    }

    fn count(&mut self, nodes: usize) -> Result<(), Unreadable> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES { Err(self.refused("the YAML comes to too many values")) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, Unreadable> {
        if depth > DEPTH {
            return Err(self.refused("the YAML is nested too deep"));
        }
        self.count(1)?;
        let line = self.line;
        let (anchor, kind) = match event {
            Event::Alias(anchor) => {
                let node =
                    self.anchors.get(&anchor).ok_or_else(|| self.refused("an alias names nothing"))?.clone();
                self.count(node.size())?;
                return Ok(Node { line, ..node });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag.suffix.clone());
                (anchor, Kind::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain, tag })
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
                (anchor, Kind::List(items))
            }
            Event::MappingStart(anchor, _) => (anchor, Kind::Map(self.pairs(depth)?)),
            _ => return Err(self.refused("this is no YAML: a value is missing")),
        };
        let node = Node { line, kind };
        if anchor > 0 {
            self.count(node.size())?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Pairs of a map; `<<` brings in those of another one, which its own overrule.
    fn pairs(&mut self, depth: usize) -> Result<Vec<(Node, Node)>, Unreadable> {
        let (mut merged, mut own) = (Vec::new(), Vec::new());
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                event => self.node(event, depth + 1)?,
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            match (key.text(), value.kind) {
                (Some("<<"), Kind::Map(pairs)) => merged.extend(pairs),
                (Some("<<"), Kind::List(items)) => {
                    // The first of them wins.
                    for item in items.into_iter().rev() {
                        if let Kind::Map(pairs) = item.kind {
                            merged.extend(pairs);
                        }
                    }
                }
                (_, kind) => own.push((key, Node { line: value.line, kind })),
            }
        }
        merged.extend(own);
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_knows_its_lines_and_tags() {
        let root = parse("a:\n  b: !vault |\n    $ANSIBLE\n  c: ~\n").unwrap();
        let Kind::Map(groups) = &root.kind else { panic!("{root:?}") };
        let Kind::Map(inner) = &groups[0].1.kind else { panic!("{root:?}") };
        assert_eq!((groups[0].0.line, inner[0].0.line, inner[1].0.line), (1, 2, 4));
        assert!(
            matches!(&inner[0].1.kind, Kind::Scalar { tag: Some(tag), .. } if tag == "vault"),
            "{inner:?}"
        );
        assert!(inner[1].1.is_null());
    }

    #[test]
    fn aliases_that_would_fill_memory_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let list = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(parse(&text).unwrap_err().message.contains("too many"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 1000].join(", "));
        assert!(parse(&long).unwrap_err().message.contains("too many"));
        assert!(parse(&"[".repeat(500)).is_err());
        assert!(parse(&"- ".repeat(5000)).unwrap_err().message.contains("deep"));
    }

    #[test]
    fn merged_maps_are_overruled_by_their_own_pairs() {
        let root = parse("base: &b {x: 1, y: 1}\nhost:\n  <<: *b\n  y: 2\n").unwrap();
        let Kind::Map(pairs) = &root.kind else { panic!("{root:?}") };
        let Kind::Map(host) = &pairs[1].1.kind else { panic!("{root:?}") };
        let all: Vec<_> =
            host.iter().map(|(key, value)| (key.text().unwrap(), value.text().unwrap())).collect();
        assert_eq!(all, [("x", "1"), ("y", "1"), ("y", "2")]);
    }
}
