//! What the tests need beside Rust: Debian packages, installed only if they are missing.

use std::process::Command;

use crate::sh;

/// A program the tests run, and the Debian package that brings it.
const PROGRAMS: [(&str, &[&str], &str); 9] = [
    ("c++", &["--version"], "g++"),
    // The examples are run in all languages they are written in.
    ("curl", &["--version"], "curl"),
    ("node", &["--version"], "nodejs"),
    ("npm", &["--version"], "npm"),
    // Records what the task store asks of the disk, and makes it fail.
    ("strace", &["-V"], "strace"),
    // Its server is not on the path: the tests of the task store look for it where it is.
    ("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"], "postgresql"),
    ("/usr/sbin/pgbouncer", &["--version"], "pgbouncer"),
    ("nats-server", &["--version"], "nats-server"),
    ("python3", &["-c", "import venv, ensurepip"], "python3-venv"),
];

/// Installs what is missing.
///
/// # Errors
/// If something is missing and cannot be installed; says what to install.
pub(crate) fn run() -> Result<(), String> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|need| !is_there(need)).map(|(_, _, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    let advice = format!("install the Debian packages: {wanted}");
    sh("apt-get update", Command::new("apt-get").args(["update", "-qq"]))
        .map_err(|error| format!("{error}; {advice}"))?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    sh(
        &format!("install {wanted}"),
        Command::new("apt-get")
            .args(install)
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map_err(|error| format!("{error}; {advice}"))?;
    match PROGRAMS.iter().find(|need| !is_there(need)) {
        None => Ok(()),
        Some((.., package)) => Err(format!("{package} is still missing; {advice}")),
    }
}

fn is_there((program, args, _): &(&str, &[&str], &str)) -> bool {
    Command::new(program).args(*args).output().is_ok_and(|output| output.status.success())
}
