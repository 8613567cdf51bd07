//! The store as its users meet it: one contract over all engines, and what they survive.

mod committer;
mod contract;
mod dir;
mod faults;
mod ledger;
mod model;
mod restart;
mod syscalls;
