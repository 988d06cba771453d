//! Which service needs which: drawn in layers, and as a table that says the same.

use std::collections::BTreeMap;

use askama::Template;

use crate::fleet::{DependencyInput, DependencyView};
use crate::model::{Timestamp, layers};
use crate::web::view;

use super::form::{Field, FieldProblem};
use super::{Chrome, Section, Viewer};

/// Services that are drawn; a drawing of more is read by nobody, the table has them all.
const DRAWN: usize = 200;
/// Letters of a name that fit into a box.
const LABEL_CHARS: usize = 24;
const BOX: (usize, usize) = (196, 46);
const GAP: (usize, usize) = (84, 16);
/// Around the drawing, so that outlines are not cut.
const EDGE: usize = 6;

/// A service of a server.
type Place = (String, String);

/// A box of the drawing; positions in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    server: String,
    service: String,
    label: String,
    on: String,
    x: usize,
    y: usize,
}

/// An arrow from who needs to what is needed, as the data of an SVG path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrow {
    path: String,
    head: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Drawing {
    width: usize,
    height: usize,
    nodes: Vec<Node>,
    arrows: Vec<Arrow>,
}

impl Drawing {
    /// Who needs stands left of what is needed. None: too many to draw.
    fn of(dependencies: &[DependencyView]) -> Option<Self> {
        let edges: Vec<(Place, Place)> = dependencies
            .iter()
            .map(|view| {
                let place = |server: &str, service: &str| (server.to_owned(), service.to_owned());
                (
                    place(view.server.as_str(), &view.dependency.service),
                    place(view.needs_server.as_str(), &view.dependency.needs_service),
                )
            })
            .collect();
        let mut places: Vec<Place> = edges.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
        places.sort();
        places.dedup();
        if places.len() > DRAWN {
            return None;
        }
        let mut columns = layers(&places, &edges);
        columns.reverse();
        let rows = columns.iter().map(Vec::len).max().unwrap_or_default();
        let mut at: BTreeMap<Place, (usize, usize)> = BTreeMap::new();
        for (column, mut members) in columns.iter().cloned().enumerate() {
            // Beside who needs it, as far as that is drawn already: fewer arrows cross.
            members.sort_by_key(|place| {
                let ys: Vec<usize> = edges
                    .iter()
                    .filter(|(_, to)| to == place)
                    .filter_map(|(from, _)| at.get(from).map(|(_, y)| *y))
                    .collect();
                ys.iter().sum::<usize>().checked_div(ys.len()).unwrap_or_default()
            });
            let top = EDGE + (rows - members.len()) * (BOX.1 + GAP.1) / 2;
            for (row, place) in members.into_iter().enumerate() {
                at.insert(place, (EDGE + column * (BOX.0 + GAP.0), top + row * (BOX.1 + GAP.1)));
            }
        }
        let arrow = |(from, to): &(Place, Place)| {
            let ((x1, y1), (x2, y2)) = (at.get(from)?, at.get(to)?);
            let (x1, y1, x2, y2) = (x1 + BOX.0, y1 + BOX.1 / 2, *x2, y2 + BOX.1 / 2);
            let tip = x2.saturating_sub(8);
            let middle = usize::midpoint(x1, tip);
            Some(Arrow {
                path: format!("M{x1} {y1}C{middle} {y1} {middle} {y2} {tip} {y2}"),
                head: format!("M{x2} {y2}l-9 -5v10z"),
            })
        };
        let node = |(place, (x, y)): (&Place, &(usize, usize))| Node {
            server: place.0.clone(),
            service: place.1.clone(),
            label: view::clean(&place.1, LABEL_CHARS),
            on: view::clean(&format!("on {}", place.0), LABEL_CHARS + 4),
            x: *x,
            y: *y,
        };
        Some(Self {
            width: 2 * EDGE + columns.len() * (BOX.0 + GAP.0) - GAP.0.min(columns.len() * GAP.0),
            height: 2 * EDGE + rows * (BOX.1 + GAP.1) - GAP.1.min(rows * GAP.1),
            arrows: edges.iter().filter_map(arrow).collect(),
            nodes: at.iter().map(node).collect(),
        })
    }
}

/// A line of the table.
#[derive(Debug, Clone)]
struct Row {
    id: String,
    server: String,
    service: String,
    needs_server: String,
    needs_service: String,
}

/// `GET /dependencies`, and the answer to its form: server, service, needs_server, needs_service.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/dependencies.html")]
pub struct DependenciesPage {
    pub chrome: Chrome,
    drawing: Option<Drawing>,
    rows: Vec<Row>,
    fields: Vec<Field>,
    box_width: usize,
    box_height: usize,
}

impl DependenciesPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        dependencies: &[DependencyView],
        (typed, problems): (&DependencyInput, &[FieldProblem]),
        now: Timestamp,
    ) -> Self {
        let row = |view: &DependencyView| Row {
            id: view.dependency.id.to_string(),
            server: view.server.to_string(),
            service: view.dependency.service.clone(),
            needs_server: view.needs_server.to_string(),
            needs_service: view.dependency.needs_service.clone(),
        };
        let field =
            |name, label, value: &str| Field::line(name, label, value, 128).required().judged(problems);
        Self {
            chrome: Chrome::new("Dependencies", Section::Groups, None, viewer, now),
            drawing: Drawing::of(dependencies),
            rows: dependencies.iter().map(row).collect(),
            fields: vec![
                field("service", "Service", &typed.service).placeholder("nginx"),
                field("server", "On the server", &typed.server).placeholder("web-1"),
                field("needs_service", "Needs the service", &typed.needs_service).placeholder("postgresql"),
                field("needs_server", "On the server", &typed.needs_server).placeholder("db-1"),
            ],
            box_width: BOX.0,
            box_height: BOX.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::dependencies;

    #[test]
    fn who_needs_stands_left_of_what_is_needed_and_no_box_covers_another() {
        let drawing = Drawing::of(&dependencies()).unwrap();
        assert_eq!((drawing.nodes.len(), drawing.arrows.len()), (6, 5));
        let at = |server: &str| drawing.nodes.iter().find(|node| node.server == server).unwrap();
        assert!(at("web-1").x < at("app-1").x && at("app-1").x < at("db-primary").x);
        for (index, one) in drawing.nodes.iter().enumerate() {
            assert!(one.x + BOX.0 <= drawing.width && one.y + BOX.1 <= drawing.height);
            for other in drawing.nodes.iter().skip(index + 1) {
                assert!(
                    one.x.abs_diff(other.x) >= BOX.0 || one.y.abs_diff(other.y) >= BOX.1,
                    "{one:?} {other:?}"
                );
            }
        }
    }
}
