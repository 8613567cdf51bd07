//! Cron schedules: when they fire, and what becomes of what was missed.
//!
//! Five fields (minute, hour, day of month, month, day of week) with lists, ranges, steps and
//! English names; `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. As in other crons, if both
//! days are restricted either will do. A time that the zone skips fires when it would have been;
//! one that it repeats fires once, unless the expression says every hour.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::api::Refusal;
use crate::limits;
use crate::task::NewTask;

/// Makes a task at every instant a cron expression names.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Its name; a schedule of the same name is replaced.
    pub name: String,
    /// The expression: see the [module](crate::cron).
    pub cron: String,
    /// The zone the expression is read in, as the IANA names it; UTC unless said.
    #[serde(default = "utc")]
    pub zone: String,
    /// What is enqueued. Its unique key is ours: each instant makes one task, however many
    /// brokers see it pass.
    pub task: NewTask,
    /// What becomes of instants that passed while nobody looked.
    #[serde(default)]
    pub catch_up: CatchUp,
}

fn utc() -> String {
    "UTC".into()
}

/// What becomes of instants that passed more than a minute ago.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are dropped.
    #[default]
    Skip,
    /// The last of them makes a task.
    Once,
    /// The last so many make tasks.
    All(u32),
}

/// What passed less than so long ago (ms) was not missed.
const MISSED_MS: u64 = 60_000;
/// Instants looked at in one go: a year of minutes would hold everything up.
const INSTANTS: usize = 10_000;
/// Days looked ahead: `0 0 29 2 *` and a weekday may be 28 years apart.
const DAYS: u32 = 366 * 29;
/// Minutes that a zone may repeat when it turns its clocks back, and a few.
const REPEATED_MINUTES: usize = 24 * 60 + 10;
const EVERY_HOUR: u64 = 0xff_ffff;

impl Schedule {
    /// # Errors
    /// Says which field cannot be taken.
    pub(crate) fn check(&self) -> Result<Plan, Refusal> {
        limits::name("schedule name", &self.name)?;
        limits::check(&self.task)?;
        if self.task.unique.is_some() {
            return Err(limits::invalid("unique", "a schedule sets this key itself; leave it out"));
        }
        if let CatchUp::All(limit) = self.catch_up {
            limits::at_most("catch_up", limit as usize, limits::PAGE, "tasks")?;
        }
        let expression =
            Expression::parse(&self.cron).map_err(|problem| limits::invalid("cron", &problem))?;
        let zone = TimeZone::get(&self.zone).map_err(|_| {
            let problem = format!("{:?} is not a known zone such as Europe/Berlin", self.zone);
            limits::invalid("zone", &problem)
        })?;
        Ok(Plan { expression, zone, catch_up: self.catch_up })
    }
}

/// A schedule that was understood.
pub(crate) struct Plan {
    expression: Expression,
    zone: TimeZone,
    catch_up: CatchUp,
}

/// What a schedule does at an instant.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Firing {
    /// The instants (Unix time, ms) to make tasks for, ascending.
    pub(crate) instants: Vec<u64>,
    /// The next one, if there ever is.
    pub(crate) next_at: Option<u64>,
}

impl Plan {
    /// The first instant after `wall` (Unix time, ms).
    pub(crate) fn after(&self, wall: u64) -> Option<u64> {
        let start = Timestamp::from_millisecond(i64::try_from(wall).ok()?).ok()?;
        let mut from = self.zone.to_datetime(start);
        if self.expression.hours == EVERY_HOUR {
            // What runs every hour runs through a repeated one, too.
            let found = self.expression.next(from)?;
            let instant = self.zone.to_offset(start).to_timestamp(found).ok()?;
            return u64::try_from(instant.as_millisecond()).ok();
        }
        for _ in 0..REPEATED_MINUTES {
            let found = self.expression.next(from)?;
            let instant = self.zone.to_ambiguous_timestamp(found).compatible().ok()?;
            if instant > start {
                return u64::try_from(instant.as_millisecond()).ok();
            }
            // A local time that comes for the second time.
            from = found;
        }
        None
    }

    /// What to do at `wall` when `next_at` was the next instant.
    pub(crate) fn fire(&self, next_at: u64, wall: u64) -> Firing {
        let mut instants = Vec::new();
        let mut next = Some(next_at);
        while let Some(instant) = next
            && instant <= wall
            && instants.len() < INSTANTS
        {
            instants.push(instant);
            next = self.after(instant);
        }
        if next.is_some_and(|instant| instant <= wall) {
            // Too many to look at them all: what remains are the last ones.
            next = self.after(wall);
        }
        let missed = instants.partition_point(|instant| instant + MISSED_MS < wall);
        let dropped = match self.catch_up {
            CatchUp::Skip => missed,
            // What is on time makes its own task.
            CatchUp::Once => missed.saturating_sub(1),
            CatchUp::All(limit) => missed.saturating_sub(limit as usize),
        };
        Firing { instants: instants.split_off(dropped), next_at: next }
    }
}

/// Sets of values, as bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Expression {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Neither day field is `*`: either will do.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Expression {
    fn parse(text: &str) -> Result<Expression, String> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "{text:?} has {} fields; five are wanted: minute hour day month weekday",
                fields.len()
            ));
        };
        let mut weekday_bits = field(weekdays, 0, 7, 0, &WEEKDAYS)?;
        if weekday_bits & (1 << 7) != 0 {
            weekday_bits = (weekday_bits | 1) & 0x7f;
        }
        let expression = Expression {
            minutes: field(minutes, 0, 59, 0, &[])?,
            hours: field(hours, 0, 23, 0, &[])?,
            days: field(days, 1, 31, 0, &[])?,
            months: field(months, 1, 12, 1, &MONTHS)?,
            weekdays: weekday_bits,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        let epoch = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        match expression.next(epoch) {
            Some(_) => Ok(expression),
            None => Err(format!("{text:?} names a day that never comes")),
        }
    }

    /// The first matching minute after `from`.
    fn next(&self, from: DateTime) -> Option<DateTime> {
        let start = from.checked_add(1.minute()).ok()?;
        let mut date = start.date();
        let mut first = (start.hour(), start.minute());
        for _ in 0..DAYS {
            if self.has_day(date)
                && let Some((hour, minute)) = self.time_from(first)
            {
                return Some(date.at(hour, minute, 0, 0));
            }
            date = date.tomorrow().ok()?;
            first = (0, 0);
        }
        None
    }

    fn has_day(&self, date: jiff::civil::Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset();
        let by_day = self.days >> date.day() & 1 == 1;
        let by_weekday = self.weekdays >> weekday & 1 == 1;
        let day = if self.either_day { by_day || by_weekday } else { by_day && by_weekday };
        day && self.months >> date.month() & 1 == 1
    }

    fn time_from(&self, (hour, minute): (i8, i8)) -> Option<(i8, i8)> {
        let from = |bits: u64, low: i8| {
            (low < 64)
                .then(|| bits >> low << low)
                .filter(|bits| *bits != 0)
                .map(|bits| bits.trailing_zeros() as i8)
        };
        let found = from(self.hours, hour)?;
        if found == hour
            && let Some(minute) = from(self.minutes, minute)
        {
            return Some((hour, minute));
        }
        let later = if found == hour { from(self.hours, hour + 1)? } else { found };
        Some((later, from(self.minutes, 0)?))
    }
}

/// One field as bits. Names count from `base`.
fn field(text: &str, low: u8, high: u8, base: u8, names: &[&str]) -> Result<u64, String> {
    let value = |word: &str| -> Result<u8, String> {
        let lower = word.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower);
        let number = named.map(|at| at as u8 + base).or_else(|| {
            word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
        });
        number
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| format!("{word:?} in {text:?} is not one of {low} to {high}"))
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => match step.parse::<u8>() {
                Ok(step @ 1..) => (range, Some(step)),
                _ => return Err(format!("{step:?} in {text:?} is no step")),
            },
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (value(from)?, value(to)?),
            // `5/10` means from 5 on.
            None => (value(range)?, if step.is_some() { high } else { value(range)? }),
        };
        if from > to {
            return Err(format!("{range:?} in {text:?} ends before it begins"));
        }
        for number in (from..=to).step_by(usize::from(step.unwrap_or(1))) {
            bits |= 1 << number;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cron: &str, zone: &str, catch_up: CatchUp) -> Plan {
        let task = NewTask::new("t", "");
        let (cron, zone) = (cron.into(), zone.into());
        Schedule { name: "s".into(), cron, zone, task, catch_up }.check().expect("a good schedule")
    }

    fn wall(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond() as u64
    }

    #[test]
    fn expressions_fire_when_they_say() {
        let cases = [
            ("*/15 * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 8 * * mon-fri", "UTC", "2026-01-02T08:00:00Z", "2026-01-05T08:00:00Z"),
            ("30 4 1,15 * 5", "UTC", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("5/20 1 * JAN *", "UTC", "2026-01-01T01:25:00Z", "2026-01-01T01:45:00Z"),
            ("@daily", "America/New_York", "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z"),
            // Skipped by the zone (02:00 to 03:00): when it would have been.
            ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"),
            // Repeated by the zone: once, the first time.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
            ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
            ("59 23 31 12 *", "UTC", "2026-12-31T23:59:59Z", "2027-12-31T23:59:00Z"),
        ];
        for (cron, zone, from, expected) in cases {
            let next = plan(cron, zone, CatchUp::Skip).after(wall(from));
            assert_eq!(next, Some(wall(expected)), "{cron} in {zone} after {from}");
        }
    }

    #[test]
    fn expressions_that_mean_nothing_say_why() {
        let cases = [
            ("* * * *", "fields"),
            ("60 * * * *", "not one of 0 to 59"),
            ("* * 0 * *", "not one of 1 to 31"),
            ("*/0 * * * *", "no step"),
            ("5-1 * * * *", "ends before"),
            ("* * * foo *", "not one of 1 to 12"),
            ("+5 * * * *", "not one of"),
            ("0 0 30 2 *", "never comes"),
            ("", "fields"),
            ("1,,2 * * * *", "not one of"),
        ];
        for (cron, words) in cases {
            let problem = Expression::parse(cron).expect_err(cron);
            assert!(problem.contains(words), "{cron:?}: {problem}");
        }
    }

    #[test]
    fn what_was_missed_follows_the_rule() {
        let from = wall("2026-01-01T00:00:00Z");
        let late = wall("2026-01-01T05:00:10Z");
        let hour = 3_600_000;
        for (catch_up, expected) in [
            (CatchUp::Skip, vec![5]),
            (CatchUp::Once, vec![4, 5]),
            (CatchUp::All(2), vec![3, 4, 5]),
            (CatchUp::All(100), vec![0, 1, 2, 3, 4, 5]),
        ] {
            let firing = plan("0 * * * *", "UTC", catch_up).fire(from, late);
            let instants = expected.iter().map(|n| from + n * hour).collect();
            assert_eq!(firing, Firing { instants, next_at: Some(from + 6 * hour) }, "{catch_up:?}");
        }
        // A minute-by-minute schedule that nobody watched for years is bounded.
        let firing = plan("* * * * *", "UTC", CatchUp::Skip).fire(0, late);
        assert_eq!(firing.next_at, Some(late - 10_000 + 60_000));
    }
}
