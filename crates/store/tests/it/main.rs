//! The store as its users meet it: one contract over all engines, and what they survive.

mod asked;
mod committer;
mod contract;
mod dir;
mod faults;
mod keeper;
mod ledger;
mod model;
mod nats;
mod postgres;
mod promises;
mod restart;
mod syscalls;
