//! The contract suite over every engine.

use crate::dir::Dir;
use crate::nats;
use crate::postgres::{shared, with_a_clock_of_ours};
use store::sqlite::Options;
use store::{Clock, Settings, contract, memory, sqlite};

#[test]
fn memory_keeps_the_contract() {
    contract::check(|_| memory::open(Settings::default()).expect("a store").0.into());
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = Dir::new();
    let mut number = 0;
    contract::check(|_| {
        number += 1;
        let path = dir.path(&format!("{number}.db"));
        let opened = sqlite::open(&path, &Clock::new(), Options::default());
        opened.expect("a store").0.into()
    });
}

#[test]
fn postgres_keeps_the_contract() {
    contract::check(|_| with_a_clock_of_ours(shared(), 1_767_225_600_000));
}

#[test]
fn nats_keeps_the_contract() {
    let mut number = 0;
    contract::check(|_| {
        number += 1;
        nats::open(&nats::shared().url(&format!("contract-{number}"))).0.into()
    });
}
