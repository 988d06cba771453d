//! A schedule as a person says it. Pure.

use super::cron::{Cron, Field};

/// Times of day that are named one by one.
const TIMES: usize = 6;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `At 03:30, Monday to Friday`.
#[must_use]
pub fn in_words(cron: &Cron) -> String {
    let mut text = times(cron);
    for part in [days(cron), months(cron)].into_iter().flatten() {
        text.push_str(", ");
        text.push_str(&part);
    }
    text
}

/// The step of `*/step`, where the field is that and nothing else.
fn step(field: Field, from: u8, to: u8) -> Option<usize> {
    let values = field.values();
    let (first, second) = (*values.first()?, *values.get(1)?);
    let step = usize::from(second - first);
    (field.is_wild && first == from && values == (from..=to).step_by(step).collect::<Vec<_>>())
        .then_some(step)
}

fn every(step: usize, unit: &str) -> String {
    if step == 1 { format!("every {unit}") } else { format!("every {step} {unit}s") }
}

fn times(cron: &Cron) -> String {
    let (minutes, hours) = (cron.minutes.values(), cron.hours.values());
    let minute_step = step(cron.minutes, 0, 59);
    let hour_step = step(cron.hours, 0, 23);
    if minute_step.is_none() && hour_step.is_none() && minutes.len() * hours.len() <= TIMES {
        let all =
            hours.iter().flat_map(|hour| minutes.iter().map(move |minute| format!("{hour:02}:{minute:02}")));
        return format!("At {}", joined(&all.collect::<Vec<_>>()));
    }
    let at = match minute_step {
        Some(step) => every(step, "minute"),
        None => match minutes.as_slice() {
            [0] => "on the hour".to_owned(),
            [one] => format!("at minute {one}"),
            _ => format!("at minutes {}", numbers(&minutes)),
        },
    };
    let text = match (hour_step, minute_step) {
        (Some(1), Some(_)) => at,
        (Some(step), _) => format!("{at}, {}", every(step, "hour")),
        (None, _) if hours.len() == 1 => {
            format!("{at}, in the hour from {:02}:00", hours.first().unwrap_or(&0))
        }
        (None, _) => format!("{at}, in the hours {}", numbers(&hours)),
    };
    capital(&text)
}

fn days(cron: &Cron) -> Option<String> {
    let (days, weekdays) = (cron.days.values(), cron.weekdays.values());
    let of_month = format!("on day {} of the month", numbers(&days));
    let names: Vec<&str> =
        weekdays.iter().filter_map(|day| WEEKDAYS.get(usize::from(*day)).copied()).collect();
    let of_week = match weekdays.as_slice() {
        [first, .., last] if weekdays.len() > 2 && usize::from(last - first) + 1 == weekdays.len() => {
            format!("{} to {}", names.first().unwrap_or(&""), names.last().unwrap_or(&""))
        }
        _ => joined(&names),
    };
    match (days.len() == 31, weekdays.len() == 7) {
        (true, true) => None,
        (false, true) => Some(of_month),
        (true, false) => Some(of_week),
        (false, false) if cron.days.is_wild || cron.weekdays.is_wild => {
            Some(format!("{of_month} if it is {of_week}"))
        }
        (false, false) => Some(format!("{of_month} and {of_week}")),
    }
}

fn months(cron: &Cron) -> Option<String> {
    let months = cron.months.values();
    let name = |month: &u8| MONTHS.get(usize::from(*month).checked_sub(1)?).copied();
    let names: Vec<&str> = months.iter().filter_map(name).collect();
    (names.len() < 12).then(|| format!("in {}", joined(&names)))
}

/// `1, 3 to 6 and 9`.
fn numbers(values: &[u8]) -> String {
    let mut parts: Vec<(u8, u8)> = Vec::new();
    for value in values {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *value => *last = *value,
            _ => parts.push((*value, *value)),
        }
    }
    let text = |(first, last): &(u8, u8)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    joined(&parts.iter().map(text).collect::<Vec<_>>())
}

fn joined<T: AsRef<str>>(parts: &[T]) -> String {
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    match parts.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_said_in_words() {
        for (line, words) in [
            ("* * * * *", "Every minute"),
            ("*/15 * * * *", "Every 15 minutes"),
            ("@hourly", "On the hour, every hour"),
            ("20 */6 * * *", "At minute 20, every 6 hours"),
            ("@daily", "At 00:00"),
            ("30 3 * * mon-fri", "At 03:30, Monday to Friday"),
            ("0 3 * * sat,sun", "At 03:00, Sunday and Saturday"),
            ("0,30 2,3 * * *", "At 02:00, 02:30, 03:00 and 03:30"),
            ("0 0 1,15 * *", "At 00:00, on day 1 and 15 of the month"),
            ("0 0 13 * 5", "At 00:00, on day 13 of the month and Friday"),
            (
                "0 0 */2 * 5",
                "At 00:00, on day 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29 and 31 of the month if it is Friday",
            ),
            ("*/5 9-17 * * *", "Every 5 minutes, in the hours 9 to 17"),
            ("*/10 2 * * *", "Every 10 minutes, in the hour from 02:00"),
            (
                "5,10,40 * 1-7 jan,jul *",
                "At minutes 5, 10 and 40, every hour, on day 1 to 7 of the month, in January and July",
            ),
        ] {
            assert_eq!(in_words(&Cron::parse(line).unwrap()), words, "{line}");
        }
    }
}
