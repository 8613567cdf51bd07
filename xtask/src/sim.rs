//! `cargo xtask sim`: replays one simulated run.

use crate::{cargo, sh};

/// Runs the simulator with these arguments.
///
/// # Errors
/// If the run breaks a rule, or the arguments are none.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut command = cargo("run --quiet --release --package maitred-sim --bin sim --");
    sh("sim", command.args(args))
}
