//! Durable tasks: one trait, several engines, one set of rules, one suite they all pass.
pub mod api;
mod clock;
mod committer;
pub mod contract;
mod core;
pub mod cron;
mod flows;
pub mod limits;
pub mod memory;
mod row;
mod rows;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod task;
mod text;
pub use self::core::Settings;
pub use api::*;
pub use clock::Clock;
pub use committer::Engine;
pub use task::*;
