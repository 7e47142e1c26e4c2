//! A date and time that the caller states, for chat templates that print the current date.
//!
//! The clock is never read: a prompt that contains the time of day would not be the same request tomorrow.

use std::str::FromStr;

use crate::TextError;

/// A date and a time of day in no particular time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CivilTime {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

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
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl FromStr for CivilTime {
    type Err = TextError;

    /// Reads `YYYY-MM-DD`, `YYYY-MM-DDTHH:MM` or `YYYY-MM-DDTHH:MM:SS` (a space may stand for the `T`).
    fn from_str(text: &str) -> Result<CivilTime, TextError> {
        parse(text).ok_or_else(|| {
            TextError::value(
                "the current time",
                "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS",
                format!("{text:?}"),
            )
        })
    }
}

fn parse(text: &str) -> Option<CivilTime> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00"),
    };
    let numbers = |text: &str, separator: char, first_len: usize| -> Option<Vec<u32>> {
        let part = |(i, s): (usize, &str)| {
            let len = if i == 0 { first_len } else { 2 };
            (s.len() == len && s.bytes().all(|b| b.is_ascii_digit()))
                .then(|| s.parse().ok())
                .flatten()
        };
        text.split(separator).enumerate().map(part).collect()
    };
    let [year, month, day] = numbers(date, '-', 4)?[..] else {
        return None;
    };
    let time = numbers(time, ':', 2)?;
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then_some(CivilTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
    })
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

impl CivilTime {
    /// The day of the year, from 1.
    fn ordinal(self) -> u32 {
        (1..self.month)
            .map(|month| days_in_month(self.year, month))
            .sum::<u32>()
            + self.day
    }

    /// The day of the week, Sunday being 0.
    fn weekday(self) -> u32 {
        // Leap days of all years before this one; 0000-01-01 is a Saturday in the proleptic Gregorian calendar.
        let leaps = match self.year {
            0 => 0,
            year => 1 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400,
        };
        (self.year * 365 + leaps + self.ordinal() - 1 + 6) % 7
    }

    /// Python's `strftime` for the directives that do not depend on a locale or a time zone.
    pub(crate) fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let is_padded = directive != Some('-');
            if !is_padded {
                directive = chars.next();
            }
            let mut number = |value: u32, width: usize| {
                let width = if is_padded { width } else { 1 };
                out.push_str(&format!("{value:0width$}"));
            };
            let hour12 = (self.hour + 11) % 12 + 1;
            match directive {
                Some('Y') => number(self.year, 4),
                Some('y') => number(self.year % 100, 2),
                Some('m') => number(self.month, 2),
                Some('d') => number(self.day, 2),
                Some('j') => number(self.ordinal(), 3),
                Some('H') => number(self.hour, 2),
                Some('I') => number(hour12, 2),
                Some('M') => number(self.minute, 2),
                Some('S') => number(self.second, 2),
                Some('p') => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
                Some('B') => out.push_str(MONTHS[self.month as usize - 1]),
                Some('b') => out.push_str(&MONTHS[self.month as usize - 1][..3]),
                Some('A') => out.push_str(WEEKDAYS[self.weekday() as usize]),
                Some('a') => out.push_str(&WEEKDAYS[self.weekday() as usize][..3]),
                Some('F') => out.push_str(&self.strftime("%Y-%m-%d")?),
                Some('T') => out.push_str(&self.strftime("%H:%M:%S")?),
                Some('%') => out.push('%'),
                Some(other) => {
                    return Err(format!("strftime_now: directive %{other} is not supported"));
                }
                None => return Err("strftime_now: the format ends in %".into()),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(time: &str, format: &str) -> String {
        time.parse::<CivilTime>().unwrap().strftime(format).unwrap()
    }

    #[test]
    fn directives_print_as_in_python() {
        assert_eq!(format("2024-12-05", "%d %b %Y"), "05 Dec 2024");
        assert_eq!(
            format("2024-12-05T13:07:09", "%A, %B %-d, %Y %H:%M:%S %I %p"),
            "Thursday, December 5, 2024 13:07:09 01 PM"
        );
        assert_eq!(format("2024-12-31", "%j %a %y 100%%"), "366 Tue 24 100%");
        assert_eq!(
            format("2026-11-23 00:30", "%F %T %I%p"),
            "2026-11-23 00:30:00 12AM"
        );
    }

    #[test]
    fn weekdays_follow_the_calendar() {
        for (date, day) in [
            ("1970-01-01", "Thursday"),
            ("2000-02-29", "Tuesday"),
            ("2000-03-01", "Wednesday"),
            ("1900-03-01", "Thursday"),
            ("2026-11-23", "Monday"),
            ("0001-01-01", "Monday"),
        ] {
            assert_eq!(format(date, "%A"), day, "{date}");
        }
    }

    #[test]
    fn impossible_times_are_errors() {
        for bad in [
            "",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "2024-1-01",
            "2024-01-01T24:00",
            "2024-01-01T",
            "+024-01-01",
            "2024-01-01T10:00:00Z",
        ] {
            assert!(bad.parse::<CivilTime>().is_err(), "{bad}");
        }
        assert!(
            "2024-01-01"
                .parse::<CivilTime>()
                .unwrap()
                .strftime("%z")
                .is_err()
        );
        assert!(
            "2024-01-01"
                .parse::<CivilTime>()
                .unwrap()
                .strftime("%")
                .is_err()
        );
    }
}
