//! From entries to a plan: every field checked, names made valid and unique, jump hosts made servers, what is there
//! already told apart. Pure.

mod check;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::super::keys::free_name;
use super::found::{Candidate, Entry, Found, Place, word};
use super::plan::{Line, Plan, Planned, Surroundings, Verdict};
use super::{Format, HOPS};
use crate::model::ServerName;
use check::check;

/// Who stands behind a key: address, port, and the way there. Two private networks may use the same addresses.
type Key = String;

/// A server of this import, in the making.
struct Draft {
    at: Place,
    /// As it was called.
    called: String,
    planned: Planned,
    jump: Vec<Candidate>,
    remarks: Vec<String>,
    parent: Option<Parent>,
}

/// What carries the connection of another server.
#[derive(Clone, Copy)]
enum Parent {
    /// By its place among those that are there.
    Known(usize),
    /// By its place among the drafts.
    Draft(usize),
}

/// One station on the way to a server.
enum Hop {
    Known(usize),
    New(Box<Candidate>),
}

/// What a line comes to before the names are given.
enum Outcome {
    Draft(usize),
    Exists(String),
    /// The draft that said it first.
    Duplicate(usize),
    Other(Verdict),
}

struct Settling<'a> {
    around: &'a Surroundings,
    known_keys: Vec<Key>,
    known_by_name: HashMap<&'a str, usize>,
    drafts: Vec<Draft>,
    draft_by_name: HashMap<String, usize>,
    /// Names of entries that cannot be added: what is behind them cannot be either.
    refused: HashSet<String>,
    by_key: HashMap<Key, Parent>,
}

pub(super) fn settle(format: Format, entries: Vec<Entry>, around: &Surroundings) -> Plan {
    let mut settling = Settling::new(around);
    let mut rows: Vec<(Place, Vec<String>, Outcome)> = Vec::new();
    for Entry { at, found, remarks } in entries {
        let outcome = settling.first_look(&at, found, &remarks);
        rows.push((at, remarks, outcome));
    }
    settling.tell_apart(&mut rows);
    // Jump hosts stand before the first server that needs them.
    let mut lines: Vec<(Place, Vec<String>, Outcome)> = Vec::new();
    for (at, remarks, outcome) in rows {
        let Outcome::Draft(index) = outcome else {
            lines.push((at, remarks, outcome));
            continue;
        };
        let before = settling.drafts.len();
        match settling.connect(index) {
            Ok(()) => {
                for made in before..settling.drafts.len() {
                    lines.push((at.clone(), Vec::new(), Outcome::Draft(made)));
                }
                lines.push((at, remarks, Outcome::Draft(index)));
            }
            Err(message) => {
                settling.drafts.truncate(before);
                settling.by_key.retain(|_, parent| !matches!(parent, Parent::Draft(made) if *made >= before));
                let verdict = Verdict::Invalid { field: "jump_host".to_owned(), message };
                lines.push((at, remarks, Outcome::Other(verdict)));
            }
        }
    }
    Plan { format, lines: settling.finish(lines) }
}

impl<'a> Settling<'a> {
    fn new(around: &'a Surroundings) -> Self {
        let servers = &around.servers;
        let known_by_name: HashMap<&str, usize> =
            servers.iter().enumerate().map(|(index, server)| (server.name.as_str(), index)).collect();
        let known_keys: Vec<Key> =
            (0..servers.len()).map(|index| known_key(around, &known_by_name, index, 0)).collect();
        let by_key = known_keys
            .iter()
            .enumerate()
            .filter(|(index, _)| servers.get(*index).is_some_and(|server| server.hostname.is_some()))
            .map(|(index, key)| (key.clone(), Parent::Known(index)))
            .collect();
        Self {
            around,
            known_keys,
            known_by_name,
            drafts: Vec::new(),
            draft_by_name: HashMap::new(),
            refused: HashSet::new(),
            by_key,
        }
    }

    /// The entry by itself: is every field in order?
    fn first_look(&mut self, at: &Place, found: Found, remarks: &[String]) -> Outcome {
        match found {
            Found::Server(candidate) => {
                let called = candidate.name.clone().unwrap_or_else(|| candidate.host.clone());
                match self.draft(at, *candidate, remarks.to_vec()) {
                    Ok(index) => {
                        self.draft_by_name.entry(called).or_insert(index);
                        Outcome::Draft(index)
                    }
                    Err((field, message)) => {
                        self.refused.insert(called);
                        Outcome::Other(Verdict::Invalid { field: field.to_owned(), message })
                    }
                }
            }
            Found::Invalid { field, message } => Outcome::Other(Verdict::Invalid { field, message }),
            Found::Unsupported { what } => Outcome::Other(Verdict::Unsupported { what }),
            Found::Note { text } => Outcome::Other(Verdict::Note { text }),
        }
    }

    fn draft(
        &mut self,
        at: &Place,
        mut candidate: Candidate,
        mut remarks: Vec<String>,
    ) -> Result<usize, (&'static str, String)> {
        let jump = std::mem::take(&mut candidate.jump);
        let called = candidate.name.clone().unwrap_or_else(|| candidate.host.clone());
        let planned = check(candidate, self.around, &mut remarks)?;
        self.drafts.push(Draft { at: at.clone(), called, planned, jump, remarks, parent: None });
        Ok(self.drafts.len() - 1)
    }

    /// What is there already, and what was said before.
    fn tell_apart(&mut self, rows: &mut [(Place, Vec<String>, Outcome)]) {
        for (_, _, outcome) in rows {
            let Outcome::Draft(index) = *outcome else { continue };
            // A way that cannot be followed is told when the way is made.
            let Some(key) = self.draft_key(index) else { continue };
            match self.by_key.get(&key) {
                Some(Parent::Known(known)) => {
                    let name = self.around.servers.get(*known).map(|server| server.name.clone());
                    *outcome = Outcome::Exists(name.unwrap_or_default());
                }
                Some(Parent::Draft(first)) => *outcome = Outcome::Duplicate(*first),
                None => {
                    self.by_key.insert(key, Parent::Draft(index));
                }
            }
        }
    }

    fn draft_key(&self, index: usize) -> Option<Key> {
        let draft = self.drafts.get(index)?;
        let route = self.route(index, 0).ok()?;
        Some(place_key(
            &draft.planned.hostname,
            draft.planned.port,
            draft.planned.proxy.as_deref(),
            &self.way_key(&route),
        ))
    }

    fn way_key(&self, route: &[Hop]) -> Key {
        route.iter().fold(Key::new(), |way, hop| self.hop_key(hop, &way))
    }

    fn hop_key(&self, hop: &Hop, way: &str) -> Key {
        match hop {
            Hop::Known(index) => self.known_keys.get(*index).cloned().unwrap_or_default(),
            Hop::New(hop) => place_key(&hop.host, port_of(hop), hop.proxy.as_deref(), way),
        }
    }

    /// Every station on the way to a draft, names of other entries replaced by what they stand for.
    fn route(&self, index: usize, depth: usize) -> Result<Vec<Hop>, String> {
        if depth > HOPS {
            return Err("the way over its jump hosts comes back to itself".to_owned());
        }
        let Some(draft) = self.drafts.get(index) else { return Ok(Vec::new()) };
        let mut route = Vec::new();
        for (position, hop) in draft.jump.iter().enumerate() {
            // What a reader resolved has a name of its own; what it did not may be the name of a server.
            let called = hop.name.as_deref().unwrap_or(&hop.host);
            if self.refused.contains(called) {
                return Err(format!("its jump host '{}' cannot be added", word(called)));
            }
            if hop.name.is_some() || hop.port.is_some() {
                route.push(Hop::New(Box::new(hop.clone())));
            } else if let Some(other) = self.draft_by_name.get(called).copied() {
                if position == 0 {
                    route.extend(self.route(other, depth + 1)?);
                }
                route.extend(self.drafts.get(other).map(|draft| Hop::New(Box::new(as_hop(draft)))));
            } else if let Some(known) = self.known_by_name.get(called).copied() {
                route.push(Hop::Known(known));
            } else {
                route.push(Hop::New(Box::new(hop.clone())));
            }
        }
        if route.len() > HOPS {
            return Err(format!("more than {HOPS} jump hosts"));
        }
        Ok(route)
    }

    /// Gives a draft what carries its connection; jump hosts that nobody listed become drafts.
    fn connect(&mut self, index: usize) -> Result<(), String> {
        let route = self.route(index, 0)?;
        let (mut way, mut parent) = (Key::new(), None);
        for hop in route {
            way = self.hop_key(&hop, &way);
            let station = match (self.by_key.get(&way), hop) {
                (Some(Parent::Draft(itself)), _) if *itself == index => {
                    return Err("the way over its jump hosts comes back to itself".to_owned());
                }
                (Some(found), _) => *found,
                (None, Hop::Known(known)) => Parent::Known(known),
                (None, Hop::New(hop)) => {
                    let made = self.jump_host(index, *hop, parent)?;
                    self.by_key.insert(way.clone(), Parent::Draft(made));
                    Parent::Draft(made)
                }
            };
            parent = Some(station);
        }
        if let Some(draft) = self.drafts.get_mut(index) {
            draft.parent = parent;
        }
        Ok(())
    }

    /// A jump host that is needed and listed nowhere.
    fn jump_host(
        &mut self,
        needed_by: usize,
        hop: Candidate,
        parent: Option<Parent>,
    ) -> Result<usize, String> {
        let (at, called) = self
            .drafts
            .get(needed_by)
            .map(|draft| (draft.at.clone(), draft.called.clone()))
            .unwrap_or_default();
        let remark = format!("the jump host of {}", word(&called));
        let shown = word(&hop.host);
        let made = self
            .draft(&at, hop, vec![remark])
            .map_err(|(_, message)| format!("its jump host '{shown}' cannot be added: {message}"))?;
        if let Some(draft) = self.drafts.get_mut(made) {
            draft.parent = parent;
        }
        Ok(made)
    }

    /// Names, then the lines as they are shown.
    fn finish(mut self, rows: Vec<(Place, Vec<String>, Outcome)>) -> Vec<Line> {
        let mut taken: HashSet<String> =
            self.around.servers.iter().map(|server| server.name.to_lowercase()).collect();
        let mut line_of: HashMap<usize, usize> = HashMap::new();
        for (line, (_, _, outcome)) in rows.iter().enumerate() {
            let Outcome::Draft(index) = outcome else { continue };
            line_of.insert(*index, line);
            if let Some(draft) = self.drafts.get_mut(*index) {
                draft.give_name(&mut taken);
            }
        }
        let name_of =
            |index: usize| self.drafts.get(index).map(|draft| draft.planned.name.clone()).unwrap_or_default();
        let lines = rows.into_iter().map(|(at, remarks, outcome)| match outcome {
            Outcome::Other(verdict) => Line { at, verdict, remarks },
            Outcome::Exists(name) => Line { at, verdict: Verdict::Exists { name }, remarks: Vec::new() },
            Outcome::Duplicate(first) => {
                let of = self.drafts.get(first).map(|draft| draft.at.clone()).unwrap_or_default();
                Line { at, verdict: Verdict::Duplicate { of, name: name_of(first) }, remarks: Vec::new() }
            }
            Outcome::Draft(index) => {
                let Some(draft) = self.drafts.get(index) else {
                    return Line { at, verdict: Verdict::Note { text: String::new() }, remarks };
                };
                let mut server = draft.planned.clone();
                match draft.parent {
                    None => {}
                    Some(Parent::Known(known)) => {
                        server.jump_host = self.around.servers.get(known).map(|server| server.name.clone());
                    }
                    Some(Parent::Draft(parent)) => {
                        server.jump_host = Some(name_of(parent));
                        server.behind = line_of.get(&parent).copied();
                    }
                }
                Line {
                    at,
                    verdict: Verdict::Add { server: Box::new(server) },
                    remarks: draft.remarks.clone(),
                }
            }
        });
        lines.collect()
    }
}

impl Draft {
    /// A valid name that nobody has, as near as possible to what the server was called.
    fn give_name(&mut self, taken: &mut HashSet<String>) {
        let wanted = valid_name(&self.called);
        let name = free_name(&wanted, |name| taken.contains(&name.to_lowercase()));
        if name != self.called {
            let why = if name == wanted {
                "a name has letters, digits and . _ - only"
            } else {
                "that name is taken"
            };
            if self.called != self.planned.hostname || name != wanted {
                self.remarks.push(format!("'{}' is added as {name}: {why}", word(&self.called)));
            }
        }
        taken.insert(name.to_lowercase());
        self.planned.name = name;
    }
}

/// A draft as a station on the way to another server.
fn as_hop(draft: &Draft) -> Candidate {
    Candidate {
        name: Some(draft.called.clone()),
        host: draft.planned.hostname.clone(),
        port: Some(draft.planned.port.into()),
        user: draft.planned.username.clone(),
        proxy: draft.planned.proxy.clone(),
        ..Candidate::default()
    }
}

fn port_of(hop: &Candidate) -> u16 {
    hop.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(22)
}

fn place_key(host: &str, port: u16, proxy: Option<&str>, way: &str) -> Key {
    let host = host.trim().trim_matches(['[', ']']);
    let host = host.parse::<IpAddr>().map_or_else(|_| host.to_lowercase(), |address| address.to_string());
    format!("{host}:{port} {} < {way}", proxy.unwrap_or_default())
}

fn known_key(around: &Surroundings, by_name: &HashMap<&str, usize>, index: usize, depth: usize) -> Key {
    let Some(server) = around.servers.get(index).filter(|_| depth <= HOPS) else { return Key::new() };
    let jump = server.jump_host.as_deref().and_then(|name| by_name.get(name));
    let way = jump.map_or_else(Key::new, |jump| known_key(around, by_name, *jump, depth + 1));
    place_key(server.hostname.as_deref().unwrap_or_default(), server.port, server.proxy.as_deref(), &way)
}

/// What a server was called, with everything replaced that a name may not have.
fn valid_name(called: &str) -> String {
    /// Leaves room for a number behind it.
    const CHARS: usize = 56;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = called
        .trim()
        .trim_matches(['[', ']'])
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(if called.len() <= 63 { 63 } else { CHARS })
        .collect();
    let name = name.trim_matches('-');
    if ServerName::parse(name).is_ok() {
        return name.to_owned();
    }
    let shorter: String = name.chars().take(CHARS - 7).collect();
    let named = format!("server-{shorter}");
    if ServerName::parse(&named).is_ok() { named } else { "server".to_owned() }
}

#[cfg(test)]
mod tests;
