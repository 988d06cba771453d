//! Temperatures: `/sys/class/hwmon`, else `/sys/class/thermal`.

use std::collections::BTreeMap;

use crate::limits;
use crate::snapshot::Temperature;
use crate::text::{clean, first_line};

/// Temperatures that a sensor can mean; outside it is one that is not connected.
const SENSIBLE_MILLIDEGREES: std::ops::RangeInclusive<i64> = -60_000..=200_000;

/// Reads the sensors out of the given files (path to content) of `/sys/class/hwmon/hwmon*/{name,temp*_input,
/// temp*_label}` and `/sys/class/thermal/thermal_zone*/{type,temp}`. Thermal zones count only where hwmon has
/// no temperature, as they repeat it. Two sensors of one name get a number. Source:
/// Documentation/hwmon/sysfs-interface.rst.
#[must_use]
pub fn temperatures(files: &BTreeMap<String, Vec<u8>>) -> Vec<Temperature> {
    let under = |prefix: &'static str| {
        files.range(prefix.to_owned()..).take_while(move |(path, _)| path.starts_with(prefix))
    };
    let line = |path: String| files.get(&path).and_then(|content| first_line(content));
    let mut found: Vec<Temperature> = under("/sys/class/hwmon/")
        .filter_map(|(path, content)| {
            let stem = path.strip_suffix("_input")?;
            let (chip, sensor) = stem.rsplit_once('/')?;
            let chip = line(format!("{chip}/name")).unwrap_or_else(|| "hwmon".to_owned());
            let label = line(format!("{stem}_label")).unwrap_or_else(|| sensor.to_owned());
            temperature(&format!("{chip} {label}"), content)
        })
        .collect();
    if found.is_empty() {
        found = under("/sys/class/thermal/")
            .filter_map(|(path, content)| {
                let zone = path.strip_suffix("/temp")?;
                let name = line(format!("{zone}/type")).unwrap_or_else(|| "thermal zone".to_owned());
                temperature(&name, content)
            })
            .collect();
    }
    found.truncate(limits::SENSORS);
    number_repeats(&mut found);
    found
}

fn temperature(name: &str, content: &[u8]) -> Option<Temperature> {
    let value: i64 = first_line(content)?.parse().ok()?;
    let sensor = clean(name.as_bytes(), limits::TEXT_BYTES);
    SENSIBLE_MILLIDEGREES.contains(&value).then_some(Temperature { sensor, millidegrees_celsius: value })
}

fn number_repeats(found: &mut [Temperature]) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for temperature in found {
        let count = seen.entry(temperature.sensor.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            temperature.sensor = format!("{} {count}", temperature.sensor);
        }
    }
}
