//! What a service of one server needs of another: nodes, edges, layers and cycles. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{DependencyId, OrganizationId, ServerId, Timestamp};

/// `service` on `server` needs `needs_service` on `needs_server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub id: DependencyId,
    pub organization: OrganizationId,
    pub server: ServerId,
    pub service: String,
    pub needs_server: ServerId,
    pub needs_service: String,
    pub created_at: Timestamp,
}

/// A way round from `start` back to it over `edges` (from, to), or None. The way begins and ends with `start`.
#[must_use]
pub fn cycle_through<N: Ord + Clone>(edges: &[(N, N)], start: &N) -> Option<Vec<N>> {
    let mut onward: BTreeMap<&N, Vec<&N>> = BTreeMap::new();
    for (from, to) in edges {
        onward.entry(from).or_default().push(to);
    }
    // Breadth first, so that the shortest way round is named.
    let mut came_from: BTreeMap<&N, &N> = BTreeMap::new();
    let mut waiting = std::collections::VecDeque::from([start]);
    while let Some(at) = waiting.pop_front() {
        for next in onward.get(at).into_iter().flatten() {
            if *next == start {
                let mut way = vec![start.clone()];
                let mut back = at;
                while back != start {
                    way.push(back.clone());
                    back = came_from.get(back)?;
                }
                way.push(start.clone());
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, at);
                waiting.push_back(next);
            }
        }
    }
    None
}

/// Sorts `nodes` into layers: whatever a node needs (edges: who needs, what is needed) stands in an earlier layer, as far as
/// it is among the nodes at all. Nodes of a cycle come together, after all that they need outside it. The order within a
/// layer is that of `nodes`.
#[must_use]
pub fn layers<N: Ord + Clone + std::hash::Hash>(nodes: &[N], edges: &[(N, N)]) -> Vec<Vec<N>> {
    let known: HashSet<&N> = nodes.iter().collect();
    let mut needs: HashMap<&N, BTreeSet<&N>> = HashMap::new();
    for (who, what) in edges {
        if who != what && known.contains(who) && known.contains(what) {
            needs.entry(who).or_default().insert(what);
        }
    }
    let mut seen = HashSet::new();
    let mut left: Vec<&N> = nodes.iter().filter(|node| seen.insert(*node)).collect();
    let mut layers = Vec::new();
    while !left.is_empty() {
        let waiting: HashSet<&N> = left.iter().copied().collect();
        let is_free = |node: &&N| {
            needs.get(*node).is_none_or(|needed| needed.iter().all(|needed| !waiting.contains(*needed)))
        };
        let (mut ready, mut rest): (Vec<&N>, Vec<&N>) = left.iter().copied().partition(is_free);
        if ready.is_empty() {
            (ready, rest) = (closed(&left, &needs), Vec::new());
            rest.extend(left.iter().copied().filter(|node| !ready.contains(node)));
        }
        layers.push(ready.into_iter().cloned().collect());
        left = rest;
    }
    layers
}

/// Of nodes that all wait for others of them: the fewest that need nothing outside themselves.
fn closed<'a, N: Ord + std::hash::Hash>(
    left: &[&'a N],
    needs: &HashMap<&'a N, BTreeSet<&'a N>>,
) -> Vec<&'a N> {
    let waiting: HashSet<&N> = left.iter().copied().collect();
    let reach = |from: &'a N| {
        let mut reached = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for next in needs.get(at).into_iter().flatten().copied() {
                if waiting.contains(next) && reached.insert(next) {
                    open.push(next);
                }
            }
        }
        reached
    };
    let least = left.iter().map(|node| reach(node)).min_by_key(BTreeSet::len).unwrap_or_default();
    left.iter().copied().filter(|node| least.contains(node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_the_order_within_a_layer_stays() {
        let nodes = ["web-2", "web-1", "db", "cache", "lonely"];
        let edges = [("web-1", "db"), ("web-2", "db"), ("web-1", "cache"), ("db", "elsewhere")];
        assert_eq!(layers(&nodes, &edges), [vec!["db", "cache", "lonely"], vec!["web-2", "web-1"]]);
    }

    #[test]
    fn servers_that_need_each_other_come_together_and_nobody_is_lost() {
        let nodes = ["a", "b", "c", "d", "a"];
        let edges = [("a", "b"), ("b", "a"), ("c", "a"), ("b", "d"), ("a", "a")];
        assert_eq!(layers(&nodes, &edges), [vec!["d"], vec!["a", "b"], vec!["c"]]);
    }

    #[test]
    fn the_shortest_way_round_is_named() {
        let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a"), ("x", "a")];
        assert_eq!(cycle_through(&edges, &"a"), Some(vec!["a", "b", "a"]));
        assert_eq!(cycle_through(&edges, &"x"), None);
        assert_eq!(cycle_through(&[("a", "a")], &"a"), Some(vec!["a", "a"]));
    }
}
