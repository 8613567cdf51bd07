//! Durable tasks: one trait, several engines, one set of rules, one suite they all pass.
pub mod api;
pub mod cron;
pub mod limits;
pub mod memory;
mod committer;
mod core;
mod flows;
mod row;
mod rows;
mod task;
mod text;
pub use api::*;
pub use committer::Engine;
pub use self::core::Settings;
pub use task::*;
