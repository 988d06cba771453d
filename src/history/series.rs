//! Which number stands for which series, and how its values become stored integers.
//!
//! The dictionary lives in memory; the writer saves what is new in it and takes away what made room. A number is
//! never given twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::metric;
use crate::model::{Labels, MetricName, SeriesKey};

/// Series over all servers. One takes about 150 bytes of memory; labels are shared between servers
/// (`eth0`, `/`), so a fleet of 5,000 with containers of their own stays far below.
pub(super) const MAX_SERIES: usize = 262_144;

/// Series that one server may have brought first. A host that starts a container a minute under a new name stays
/// here; 32 hosts like that would be needed to fill the dictionary.
pub(super) const MAX_OWNED: u32 = 8_192;

/// A series that nobody had for so many days may make room for a new one.
const UNSEEN_DAYS: i64 = 2;

/// A server that brought at most so many names never makes room for those of others.
const FEW: u32 = 1_024;

/// Series that make room at once, so that a full dictionary is not searched for each new name.
const MAKES_ROOM: usize = 64;

/// Longest metric name or label in bytes: the longest mount point that anyone would read on a page.
pub(super) const MAX_NAME_BYTES: usize = 512;

/// Row id of a series in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SeriesId(pub(super) u32);

/// How the 64 bits of a stored value are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `round(value * scale)`.
    Integer,
    /// The bits of an f64.
    Float,
}

impl Kind {
    /// As the column `kind` of the table `series` holds it.
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Integer => 0,
            Self::Float => 1,
        }
    }

    pub(super) const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Integer),
            1 => Some(Self::Float),
            _ => None,
        }
    }
}

/// One series as the file knows it.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) id: SeriesId,
    pub(super) key: SeriesKey,
    pub(super) kind: Kind,
    /// Stored integers a unit; 1 for a float.
    pub(super) scale: u32,
    /// The server that brought it first; 0: nobody knows.
    pub(super) owner: u32,
    /// Day since 1970 on which it was last seen.
    pub(super) seen_day: i64,
}

impl Series {
    /// The stored form. None: not finite, or beyond what 64 bits hold at this scale.
    pub(super) fn store(&self, value: f64) -> Option<i64> {
        if !value.is_finite() {
            return None;
        }
        match self.kind {
            Kind::Float => Some(value.to_bits().cast_signed()),
            Kind::Integer => {
                let scaled = (value * f64::from(self.scale)).round();
                // 2^63 is exact as f64; i64::MAX is not.
                let limit = 9_223_372_036_854_775_808.0_f64;
                (-limit..limit).contains(&scaled).then_some(scaled as i64)
            }
        }
    }

    /// A number in stored units, as roll-ups have them, in the unit of the metric.
    pub(super) fn unscale(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Float => value,
            Kind::Integer => value / f64::from(self.scale),
        }
    }

    pub(super) fn restore(&self, raw: i64) -> f64 {
        match self.kind {
            Kind::Float => f64::from_bits(raw.cast_unsigned()),
            Kind::Integer => raw as f64 / f64::from(self.scale),
        }
    }
}

/// Every series that was seen, as far as there is room.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    by_key: HashMap<SeriesKey, SeriesId>,
    by_id: BTreeMap<SeriesId, Series>,
    by_metric: HashMap<MetricName, BTreeSet<SeriesId>>,
    /// How many each server brought.
    owned: HashMap<u32, u32>,
    /// Servers (0: all together) that found no room on this day, so that the search is not repeated.
    full_on: HashMap<u32, i64>,
    next_id: u32,
    /// Not in the file yet.
    unsaved: Vec<SeriesId>,
    /// Still in the file.
    removed: Vec<SeriesId>,
}

impl Dictionary {
    pub(super) fn find(&self, key: &SeriesKey) -> Option<&Series> {
        self.by_key.get(key).and_then(|id| self.get(*id))
    }

    pub(super) fn get(&self, id: SeriesId) -> Option<&Series> {
        self.by_id.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// By number.
    pub(super) fn of_metric(&self, metric: &MetricName) -> impl Iterator<Item = &Series> {
        self.by_metric.get(metric).into_iter().flatten().filter_map(|id| self.get(*id))
    }

    /// Gives a new series its number. None: there is no room, or a name is too long.
    pub(super) fn add(&mut self, key: &SeriesKey, owner: u32, today: i64) -> Option<&Series> {
        let too_long =
            key.metric.as_str().len() > MAX_NAME_BYTES || key.labels.as_str().len() > MAX_NAME_BYTES;
        if too_long || !self.has_room(owner, today) {
            return None;
        }
        let id = SeriesId(self.next_id.max(1));
        // Numbers have 29 bits in a roll-up; at 8,192 new names a day from every server that is decades away.
        self.next_id = id.0.checked_add(1).filter(|next| *next < 1 << 29)?;
        let (kind, scale) = match metric::find(key.metric.as_str()) {
            Some(known) => (Kind::Integer, known.scale),
            None => (Kind::Float, 1),
        };
        self.unsaved.push(id);
        self.insert(Series { id, key: key.clone(), kind, scale, owner, seen_day: today });
        self.get(id)
    }

    fn has_room(&mut self, owner: u32, today: i64) -> bool {
        let own_full = self.owned.get(&owner).is_some_and(|owned| *owned >= MAX_OWNED);
        if own_full && !self.make_room(Some(owner), today) {
            return false;
        }
        self.by_id.len() < MAX_SERIES || self.make_room(None, today)
    }

    /// Lets go of the series that were not seen for the longest time. False: all are in use.
    fn make_room(&mut self, owner: Option<u32>, today: i64) -> bool {
        let who = owner.unwrap_or(0);
        if self.full_on.get(&who) == Some(&today) {
            return false;
        }
        // A server that was off for a week finds its disks again; who brought few names loses none of them.
        let is_many = |of: u32| self.owned.get(&of).is_some_and(|owned| *owned > FEW);
        let unseen = self.by_id.values().filter(|series| {
            owner.map_or_else(|| is_many(series.owner), |owner| series.owner == owner)
                && series.seen_day + UNSEEN_DAYS <= today
                && !(series.key.labels.is_empty() && metric::find(series.key.metric.as_str()).is_some())
        });
        let mut unseen: Vec<(i64, SeriesId)> = unseen.map(|series| (series.seen_day, series.id)).collect();
        unseen.sort_unstable();
        if unseen.is_empty() {
            self.full_on.insert(who, today);
            return false;
        }
        for (_, id) in unseen.into_iter().take(MAKES_ROOM) {
            self.remove(id);
        }
        true
    }

    fn remove(&mut self, id: SeriesId) {
        let Some(series) = self.by_id.remove(&id) else { return };
        self.by_key.remove(&series.key);
        if let Some(ids) = self.by_metric.get_mut(&series.key.metric) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_metric.remove(&series.key.metric);
            }
        }
        if let Some(owned) = self.owned.get_mut(&series.owner) {
            *owned = owned.saturating_sub(1);
        }
        if let Some(place) = self.unsaved.iter().position(|unsaved| *unsaved == id) {
            self.unsaved.swap_remove(place);
        } else {
            self.removed.push(id);
        }
    }

    /// What was sealed today was seen today.
    pub(super) fn seen(&mut self, ids: impl Iterator<Item = SeriesId>, today: i64) {
        for id in ids {
            if let Some(series) = self.by_id.get_mut(&id) {
                series.seen_day = series.seen_day.max(today);
            }
        }
    }

    /// The next number to be given.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id.max(1)
    }

    pub(super) fn continue_from(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// When each series was seen last.
    pub(super) fn seen_days(&self) -> Vec<(SeriesId, i64)> {
        self.by_id.values().map(|series| (series.id, series.seen_day)).collect()
    }

    /// A series as it stands in the file. The file's scale holds, whatever the catalogue says today.
    /// False: the number is none that this program gives.
    pub(super) fn load(&mut self, stored: Stored) -> bool {
        if stored.id.0 == 0 || self.by_id.len() >= MAX_SERIES {
            return false;
        }
        let metric = match metric::find(&stored.metric) {
            Some(known) => MetricName::known(known.name),
            None => MetricName::custom(stored.metric),
        };
        let key = SeriesKey { metric, labels: Labels::of(&stored.labels) };
        self.next_id = self.next_id.max(stored.id.0.saturating_add(1));
        let Stored { id, kind, scale, owner, seen_day, .. } = stored;
        self.insert(Series { id, key, kind, scale: scale.max(1), owner, seen_day });
        true
    }

    fn insert(&mut self, series: Series) {
        *self.owned.entry(series.owner).or_default() += 1;
        self.by_key.insert(series.key.clone(), series.id);
        self.by_metric.entry(series.key.metric.clone()).or_default().insert(series.id);
        self.by_id.insert(series.id, series);
    }

    /// What the file does not have yet; stays so until [`Self::saved`].
    pub(super) fn unsaved(&self) -> Changes {
        let added: Vec<Series> = self.unsaved.iter().filter_map(|id| self.get(*id)).cloned().collect();
        Changes { added, removed: self.removed.clone(), next_id: self.next_id() }
    }

    pub(super) fn saved(&mut self, changes: &Changes) {
        let added: HashSet<SeriesId> = changes.added.iter().map(|series| series.id).collect();
        self.unsaved.retain(|id| !added.contains(id));
        // What was removed after the changes were taken stands behind them.
        self.removed.drain(..changes.removed.len().min(self.removed.len()));
    }
}

/// A row of the table `series`.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) id: SeriesId,
    pub(super) metric: String,
    pub(super) labels: String,
    pub(super) kind: Kind,
    pub(super) scale: u32,
    pub(super) owner: u32,
    pub(super) seen_day: i64,
}

/// What the file does not know of the dictionary.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Vec<Series>,
    pub(super) removed: Vec<SeriesId>,
    pub(super) next_id: u32,
}

impl Changes {
    pub(super) const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_to_the_precision_of_the_catalogue() {
        let mut dictionary = Dictionary::default();
        let series = dictionary.add(&SeriesKey::plain("cpu_percent"), 1, 0).unwrap();
        assert_eq!(series.store(12.345).map(|raw| series.restore(raw)), Some(12.35));
        assert_eq!(series.store(f64::NAN), None);
        assert_eq!(series.store(1e300), None);
        let custom =
            SeriesKey { metric: MetricName::custom("llm_cost_usd".to_owned()), labels: Labels::NONE };
        let series = dictionary.add(&custom, 1, 0).unwrap();
        assert_eq!(series.store(0.1 + 0.2).map(|raw| series.restore(raw)), Some(0.1 + 0.2));
    }

    #[test]
    fn a_name_beyond_the_limit_gets_no_series() {
        let mut dictionary = Dictionary::default();
        let long = SeriesKey {
            metric: MetricName::known("filesystem_percent"),
            labels: Labels::of(&"x".repeat(MAX_NAME_BYTES + 1)),
        };
        assert!(dictionary.add(&long, 1, 0).is_none());
    }

    fn container(name: u32) -> SeriesKey {
        let metric = MetricName::custom("container_cpu_percent".to_owned());
        SeriesKey { metric, labels: Labels::of(&format!("job-{name}")) }
    }

    #[test]
    fn one_server_cannot_fill_the_dictionary_and_old_names_make_room() {
        let mut dictionary = Dictionary::default();
        let added = |dictionary: &mut Dictionary, owner, names: std::ops::Range<u32>, day| {
            names.filter(|name| dictionary.add(&container(*name), owner, day).is_some()).count()
        };
        assert_eq!(added(&mut dictionary, 1, 0..10_000, 100), MAX_OWNED as usize);
        assert_eq!(added(&mut dictionary, 2, 20_000..20_100, 100), 100);
        assert_eq!(added(&mut dictionary, 1, 10_000..10_100, 101), 0);
        // Half of them are still in use two days later.
        let used: Vec<SeriesId> = (1..=4096).map(SeriesId).collect();
        dictionary.seen(used.into_iter(), 102);
        assert_eq!(added(&mut dictionary, 1, 10_000..20_000, 102), 4096);
        assert!(dictionary.find(&container(0)).is_some());
        assert!(dictionary.find(&container(5000)).is_none());
        assert!(dictionary.len() <= MAX_OWNED as usize + 100);
        let newest = dictionary.by_id.keys().next_back().unwrap().0;
        assert!(newest as usize > MAX_OWNED as usize + 4096, "a number was given twice");
    }
}
