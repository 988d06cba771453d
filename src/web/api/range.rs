//! The span of time, and the lists, that a query of history names. Pure: text in, values out.

use std::time::Duration;

use super::super::error::Failure;
use super::super::request::Request;
use crate::fleet::Span;
use crate::model::{Timestamp, shown};

const DEFAULT_PERIOD: Duration = Duration::from_secs(3600);
/// Points of one series when the caller names no number: about two pixels each on a wide chart.
const DEFAULT_POINTS: usize = 600;
/// Longest text of a query that is repeated in a refusal.
const SHOWN_CHARS: usize = 40;

/// `15m`, `1h`, `24h`, `7d`, `2w`, `1y` or seconds.
pub fn period(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        "y" => 365 * 24 * 3600,
        _ => return None,
    };
    digits.parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(factor).map(Duration::from_secs)
}

/// The period that a parameter names. None: it is missing or empty.
pub fn named_period(request: &Request, name: &str) -> Result<Option<Duration>, Failure> {
    given(request, name)
        .map(|text| {
            period(text).ok_or_else(|| {
                Failure::invalid(format!(
                    "{name}: '{}' is not a period; use for example 15m, 1h, 24h, 7d or 1y",
                    shown(text, SHOWN_CHARS)
                ))
            })
        })
        .transpose()
}

fn time(request: &Request, name: &str) -> Result<Option<Timestamp>, Failure> {
    given(request, name)
        .map(|text| {
            Timestamp::parse(text).ok_or_else(|| {
                Failure::invalid(format!(
                    "{name} is not a time; use RFC 3339 such as 2026-01-31T08:00:00Z, or Unix time"
                ))
            })
        })
        .transpose()
}

/// The parameter's text, unless it is missing or empty.
pub fn given<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.query(name).filter(|text| !text.is_empty())
}

/// From `from` to `to`, or `back` up to `to`; `to` is now where it is not named.
pub fn range(
    request: &Request,
    back: Option<Duration>,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), Failure> {
    let to = time(request, "to")?.unwrap_or(now);
    let from = time(request, "from")?.unwrap_or(to - back.unwrap_or(DEFAULT_PERIOD));
    if from > to {
        return Err(Failure::invalid(format!(
            "the range ends ({to}) before it begins ({from}); swap from and to"
        )));
    }
    Ok((from, to))
}

/// How many points are asked for.
pub fn points(request: &Request, usual: usize) -> Result<usize, Failure> {
    match given(request, "points").or_else(|| given(request, "limit")) {
        None => Ok(usual),
        Some(text) => text.parse().map_err(|_| {
            Failure::invalid(format!("'{}' is not a number of points", shown(text, SHOWN_CHARS)))
        }),
    }
}

/// The span that `period` or `from` and `to`, and `points` name.
pub fn span(request: &Request, now: Timestamp) -> Result<Span, Failure> {
    let (from, to) = range(request, named_period(request, "period")?, now)?;
    Ok(Span { from, to, points: points(request, DEFAULT_POINTS)? })
}

/// Every value of a parameter that may be named often and may hold several, apart by commas.
pub fn list(request: &Request, name: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for (_, text) in request.query.iter().filter(|(key, _)| key == name) {
        for value in text.split(',').map(str::trim).filter(|value| !value.is_empty()) {
            if !values.iter().any(|known| known == value) {
                values.push(value.to_owned());
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_numbers_with_a_unit() {
        assert_eq!(period("15m"), Some(Duration::from_secs(900)));
        assert_eq!(period("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(period("10y"), Some(Duration::from_secs(315_360_000)));
        for bad in ["", "0h", "-1h", "1q", "h", "99999999999999999999d"] {
            assert_eq!(period(bad), None, "{bad}");
        }
    }
}
