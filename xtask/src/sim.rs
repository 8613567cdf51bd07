//! `cargo xtask sim`: replays seeds of the simulator.

use crate::{cargo, sh};

/// Passes `args` on to the simulator, which says itself what it takes.
///
/// # Errors
/// If a seed breaks a rule, or the simulator does not build.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    // Nothing but the simulator may be built with bugs to plant.
    let planted = args.iter().any(|arg| arg == "--planted");
    let features = if planted { "--features planted" } else { "" };
    let words = format!("run --quiet --release -p maitred-sim {features} --bin sim --");
    sh("the simulator", cargo(&words).args(args))
}
