//! The contract suite over every engine.

use crate::dir::Dir;
use store::sqlite::Options;
use store::{Clock, Settings, contract, memory, sqlite};

#[test]
fn memory_keeps_the_contract() {
    contract::check(|_| Box::new(memory::open(Settings::default()).expect("a store").0));
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = Dir::new();
    let mut number = 0;
    contract::check(|_| {
        number += 1;
        let path = dir.path(&format!("{number}.db"));
        let opened = sqlite::open(&path, &Clock::new(), Options::default());
        Box::new(opened.expect("a store").0)
    });
}
