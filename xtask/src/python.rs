//! Runs `clients/python/tests`: the Python package as users install it, and the examples,
//! against the built binary.
//!
//! What they need is in a virtual environment and a folder of npm packages under `target/`, each
//! made anew whenever what it was made from changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::interop::{checked, require_venv, target_dir};
use crate::root;

/// Runs the suite against `binary`; `extra` goes to pytest as it is.
///
/// # Errors
/// If something cannot be installed, or a test fails.
pub(crate) fn run(binary: &Path, extra: &[String]) -> Result<(), String> {
    let binary = fs::canonicalize(binary)
        .map_err(|error| format!("{}: {error}; build it first", binary.display()))?;
    let target = target_dir(&root());
    let package = root().join("clients/python");
    let requirements = package.join("tests/requirements.txt");
    let python = require_venv(&target.join("python-venv"), &requirements)?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    checked(
        Command::new(&python)
            .args(install)
            .args(["--no-build-isolation", "--force-reinstall"])
            .arg(&package),
    )?;
    let node_modules = require_npm(&target.join("examples-npm"))?;

    let status = Command::new(&python)
        .args(["-m", "pytest"])
        .args(extra)
        .current_dir(&package)
        .env("MAITRED_BIN", &binary)
        .env("MAITRED_EXAMPLES_NODE_MODULES", &node_modules)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Options of the caller's environment could deselect tests without a word.
        .env_remove("PYTEST_ADDOPTS")
        .env_remove("PYTHONPATH")
        .status()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    if status.success() { Ok(()) } else { Err(format!("the Python suite failed: {status}")) }
}

/// A folder that holds what `examples/javascript/package.json` names.
fn require_npm(folder: &Path) -> Result<PathBuf, String> {
    let node_modules = folder.join("node_modules");
    let manifest = root().join("examples/javascript/package.json");
    let wanted = fs::read_to_string(&manifest)
        .map_err(|error| format!("{}: {error}", manifest.display()))?;
    // Written last, so that an interrupted installation is not taken for a whole one.
    let stamp_file = folder.join("made-from.json");
    if fs::read_to_string(&stamp_file).is_ok_and(|made| made == wanted) {
        return Ok(node_modules);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let at = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(at)?;
    fs::copy(&manifest, folder.join("package.json")).map_err(at)?;
    let npm = env::var_os("NPM").unwrap_or_else(|| "npm".into());
    let install = ["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"];
    checked(Command::new(npm).args(install).current_dir(folder))?;
    fs::write(&stamp_file, wanted).map_err(at)?;
    Ok(node_modules)
}
