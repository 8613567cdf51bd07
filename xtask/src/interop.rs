//! Runs `tests/interop`: real ZeroMQ peers against the built binary.
//!
//! The peers are Python packages in a virtual environment under `target/`, made anew whenever
//! `requirements.txt` or the Python that made it differs. Nothing else on the machine is touched.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// Runs the suite against `binary`; `extra` goes to pytest as it is (`-k redelivery`, a file name).
pub(crate) fn run(binary: &Path, extra: &[String]) -> Result<(), String> {
    let binary = fs::canonicalize(binary)
        .map_err(|error| format!("{}: {error}; build it first", binary.display()))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let suite = fs::canonicalize(root.join("tests/interop"))
        .map_err(|error| format!("tests/interop: {error}"))?;
    let requirements = suite.join("requirements.txt");
    let python = require_venv(&target_dir(&root).join("interop-venv"), &requirements)?;

    let status = Command::new(&python)
        .args(["-m", "pytest"])
        .args(extra)
        .current_dir(&suite)
        .env("MAITRED_BIN", &binary)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Options of the caller's environment could deselect tests without a word.
        .env_remove("PYTEST_ADDOPTS")
        .status()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    if status.success() { Ok(()) } else { Err(format!("the interop suite failed: {status}")) }
}

/// Where cargo builds: next to it the environment survives as long as the build does.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    std::path::absolute(&target).unwrap_or(target)
}

/// The Python of an environment that holds exactly what a suite's `requirements.txt` says.
pub(crate) fn require_venv(venv: &Path, requirements: &Path) -> Result<PathBuf, String> {
    let base = env::var_os("PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let wanted = fs::read_to_string(requirements)
        .map_err(|error| format!("{}: {error}", requirements.display()))?;
    let version = checked(Command::new(&base).arg("--version"))
        .map_err(|error| format!("the interop suite needs Python 3.11 or later: {error}"))?;
    let stamp = format!("{}{wanted}", String::from_utf8_lossy(&version.stdout));

    let python = venv.join("bin/python");
    // Written last, so that an interrupted installation is not taken for a whole one.
    let stamp_file = venv.join("made-from.txt");
    if python.exists() && fs::read_to_string(&stamp_file).is_ok_and(|made| made == stamp) {
        return Ok(python);
    }

    if venv.exists() {
        fs::remove_dir_all(venv).map_err(|error| format!("{}: {error}", venv.display()))?;
    }
    checked(Command::new(&base).args(["-m", "venv"]).arg(venv)).map_err(explain_venv)?;
    checked(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(requirements),
    )?;
    fs::write(&stamp_file, stamp).map_err(|error| format!("{}: {error}", stamp_file.display()))?;
    Ok(python)
}

/// Debian ships `venv` and the `ensurepip` it needs apart from Python itself.
fn explain_venv(error: String) -> String {
    if error.contains("ensurepip") || error.contains("No module named venv") {
        format!("{error}\nPython's venv module is missing: on Debian, `apt install python3-venv`")
    } else {
        error
    }
}

/// Runs to the end; a failure tells the command and all that it said.
pub(crate) fn checked(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    ))
}
