//! Which number stands for which series, and how its values become stored integers.
//!
//! The dictionary lives in memory; the writer saves what is new in it. It never forgets a series.

use std::collections::HashMap;

use super::metric;
use crate::model::{Labels, MetricName, SeriesKey};

/// Series over all servers. One takes about 150 bytes of memory; labels are shared between servers
/// (`eth0`, `/`), so a fleet of 5,000 with containers of their own stays far below.
pub(super) const MAX_SERIES: usize = 262_144;

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

    pub(super) fn restore(&self, raw: i64) -> f64 {
        match self.kind {
            Kind::Float => f64::from_bits(raw.cast_unsigned()),
            Kind::Integer => raw as f64 / f64::from(self.scale),
        }
    }
}

/// Every series ever seen.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    by_key: HashMap<SeriesKey, SeriesId>,
    /// At the place of the id. An id is never over [`MAX_SERIES`].
    by_id: Vec<Option<Series>>,
    /// Not in the file yet.
    unsaved: Vec<SeriesId>,
}

impl Dictionary {
    pub(super) fn find(&self, key: &SeriesKey) -> Option<&Series> {
        self.by_key.get(key).and_then(|id| self.get(*id))
    }

    pub(super) fn get(&self, id: SeriesId) -> Option<&Series> {
        self.by_id.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn of_metric<'a>(&'a self, metric: &'a MetricName) -> impl Iterator<Item = &'a Series> {
        self.by_id.iter().flatten().filter(move |series| &series.key.metric == metric)
    }

    /// Gives a new series its number. None: the dictionary is full or a name is too long.
    pub(super) fn add(&mut self, key: &SeriesKey) -> Option<&Series> {
        let too_long =
            key.metric.as_str().len() > MAX_NAME_BYTES || key.labels.as_str().len() > MAX_NAME_BYTES;
        let next = self.by_id.len().max(1);
        if too_long || next > MAX_SERIES {
            return None;
        }
        let id = SeriesId(u32::try_from(next).ok()?);
        let (kind, scale) = match metric::find(key.metric.as_str()) {
            Some(known) => (Kind::Integer, known.scale),
            None => (Kind::Float, 1),
        };
        self.unsaved.push(id);
        self.insert(Series { id, key: key.clone(), kind, scale });
        self.get(id)
    }

    /// A series as it stands in the file. The file's scale holds, whatever the catalogue says today.
    /// False: the id is none that this program gives.
    pub(super) fn load(
        &mut self,
        id: SeriesId,
        metric: String,
        labels: &str,
        kind: Kind,
        scale: u32,
    ) -> bool {
        if id.0 == 0 || id.0 as usize > MAX_SERIES {
            return false;
        }
        let metric = match metric::find(&metric) {
            Some(known) => MetricName::known(known.name),
            None => MetricName::custom(metric),
        };
        let key = SeriesKey { metric, labels: Labels::of(labels) };
        self.insert(Series { id, key, kind, scale: scale.max(1) });
        true
    }

    fn insert(&mut self, series: Series) {
        let place = series.id.0 as usize;
        if self.by_id.len() <= place {
            self.by_id.resize(place + 1, None);
        }
        self.by_key.insert(series.key.clone(), series.id);
        if let Some(slot) = self.by_id.get_mut(place) {
            *slot = Some(series);
        }
    }

    /// What the file does not have yet; stays so until [`Self::saved`].
    pub(super) fn unsaved(&self) -> Vec<Series> {
        self.unsaved.iter().filter_map(|id| self.get(*id)).cloned().collect()
    }

    pub(super) fn saved(&mut self, stored: &[Series]) {
        self.unsaved.retain(|id| !stored.iter().any(|series| series.id == *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_to_the_precision_of_the_catalogue() {
        let mut dictionary = Dictionary::default();
        let series = dictionary.add(&SeriesKey::plain("cpu_percent")).unwrap();
        assert_eq!(series.store(12.345).map(|raw| series.restore(raw)), Some(12.35));
        assert_eq!(series.store(f64::NAN), None);
        assert_eq!(series.store(1e300), None);
        let custom =
            SeriesKey { metric: MetricName::custom("llm_cost_usd".to_owned()), labels: Labels::NONE };
        let series = dictionary.add(&custom).unwrap();
        assert_eq!(series.store(0.1 + 0.2).map(|raw| series.restore(raw)), Some(0.1 + 0.2));
    }

    #[test]
    fn a_name_beyond_the_limit_gets_no_series() {
        let mut dictionary = Dictionary::default();
        let long = SeriesKey {
            metric: MetricName::known("filesystem_percent"),
            labels: Labels::of(&"x".repeat(MAX_NAME_BYTES + 1)),
        };
        assert!(dictionary.add(&long).is_none());
    }
}
