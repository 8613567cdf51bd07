//! The guide's table of promises says what the engines say.

use store::promises::{Keeper, NAMES, Promises};
use store::{Clock, Settings, Store, memory, sqlite};

use crate::dir::Dir;

const GUIDE: &str = include_str!("../../../../docs/stores.md");

/// The cells of the rows that begin with a promise's number.
fn rows() -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let numbered = |line: &&str| {
        line.strip_prefix("| P").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    GUIDE.lines().filter(numbered).map(cells).collect()
}

/// What a column of the table says.
fn column(number: usize) -> Promises {
    let keeper = |row: &Vec<&str>| match row.get(number).copied().unwrap_or_default() {
        cell if cell.starts_with("ours") => Keeper::Ours,
        cell if cell.starts_with("server's") => Keeper::Server,
        cell if cell.starts_with("not given") => Keeper::Nobody,
        cell => panic!("{cell:?} says neither ours, server's nor not given"),
    };
    let keepers: Vec<Keeper> = rows().iter().map(keeper).collect();
    Promises(keepers.try_into().expect("ten rows"))
}

#[test]
fn the_guide_says_what_the_engines_say() {
    for (number, (row, name)) in rows().iter().zip(NAMES).enumerate() {
        assert_eq!(row[0], format!("P{} {name}", number + 1));
    }
    let dir = Dir::fast();
    let (memory, _) = memory::open(Settings::default()).expect("a store");
    let sqlite = sqlite::open(&dir.path("p.db"), &Clock::new(), sqlite::Options::default());
    let (postgres, _) = crate::postgres::open(&crate::postgres::shared().database());
    let (nats, _) = crate::nats::open(&crate::nats::shared().url("promises"));
    let engines = [memory, sqlite.expect("a store").0, postgres, nats];
    for (number, engine) in engines.iter().enumerate() {
        let says = engine.capabilities();
        assert_eq!(column(number + 1), says.promises, "{}", says.engine);
    }
}
