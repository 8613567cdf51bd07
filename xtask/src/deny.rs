//! `cargo xtask deny`: licences, sources, bans. The tool is installed under `target/tools` once.

use std::process::Command;

use crate::{cargo, root, sh};

/// The version whose configuration format `deny.toml` has.
const VERSION: &str = "0.20.2";

/// Checks all dependencies.
///
/// # Errors
/// If the tool cannot be installed, or a dependency is not allowed.
pub(crate) fn run() -> Result<(), String> {
    let tools = root().join("target").join("tools");
    let tool = tools.join("bin").join("cargo-deny");
    let installed = Command::new(&tool).arg("--version").output();
    let current = installed.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {VERSION}")
    });
    if !current {
        let mut install = cargo("install cargo-deny --locked --quiet --debug --version");
        sh("install cargo-deny", install.arg(VERSION).arg("--root").arg(&tools))?;
    }
    let checks = ["check", "bans", "licenses", "sources"];
    sh("deny", Command::new(&tool).args(checks))
}
