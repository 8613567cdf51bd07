//! `cargo xtask test`: everything that must hold, in the order in which it fails soonest.

use std::path::PathBuf;

use crate::{cargo, deny, fuzz, setup, sh};

/// Installs what the tests need, then runs all of them.
///
/// # Errors
/// Names the first step that failed.
pub(crate) fn run() -> Result<(), String> {
    setup::run()?;
    sh("format", &mut cargo("fmt --all --check"))?;
    let clippy = "clippy --workspace --all-targets --all-features -- -D warnings";
    sh("lints", &mut cargo(clippy))?;
    sh("tests", &mut cargo("test --workspace"))?;
    let awaited = "test --package matching --features tower --lib --test live --test regulator \
                   --test pool --test tower --test tower_503";
    sh("tests to await", &mut cargo(awaited))?;
    sh("documented tests to await", &mut cargo("test --package matching --features tower --doc"))?;
    sh("docs", cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    let awaited = "doc --package matching --all-features --no-deps";
    sh("docs to await", cargo(awaited).env("RUSTDOCFLAGS", "-D warnings"))?;
    deny::run()?;
    fuzz::run(30)?;
    interop(&[])?;
    python(&[])
}

/// Builds the broker as users run it and lets real ZeroMQ peers at it.
///
/// # Errors
/// If the build or a test fails.
pub(crate) fn interop(args: &[String]) -> Result<(), String> {
    let binary = release()?;
    eprintln!("\n=== interop");
    crate::interop::run(&binary, args)
}

/// Builds the broker as users run it and lets the Python package and the examples at it.
///
/// # Errors
/// If the build or a test fails.
pub(crate) fn python(args: &[String]) -> Result<(), String> {
    let binary = release()?;
    eprintln!("\n=== clients/python and examples");
    crate::python::run(&binary, args)
}

fn release() -> Result<PathBuf, String> {
    sh("release build", &mut cargo("build --release --package maitred"))?;
    Ok(crate::root().join("target/release/maitred"))
}
