//! `cargo xtask tidy`: what no compiler checks. It is a test of this crate, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::root;

/// Columns of a line of Rust.
const COLUMNS: usize = 100;
/// Lines of a function. Longer ones are a reason to talk.
const FUNCTION_LINES: usize = 80;
/// Bytes of a file in the tree.
const FILE_BYTES: u64 = 1 << 20;

/// Crates that do no I/O and read no clock.
const PURE: [&str; 5] = ["matching", "zmtp", "stomp", "engine", "sessions"];

/// The crates of ours that a crate may name: arrows only point downward.
const ARROWS: [(&str, &[&str]); 12] = [
    ("matching", &[]),
    ("zmtp", &[]),
    ("stomp", &[]),
    ("engine", &["matching"]),
    ("sessions", &["engine", "matching", "stomp", "zmtp"]),
    ("client", &["zmtp"]),
    ("store", &[]),
    ("drone", &["matching", "store"]),
    ("sim", &["engine", "matching", "sessions", "zmtp"]),
    ("plot", &[]),
    ("maitred", &["client", "drone", "engine", "matching", "plot", "sessions", "store", "zmtp"]),
    ("xtask", &["plot"]),
];

/// What must not stand in the tree, and what to do instead. Spelt in two halves, so that this file
/// may stand there.
const BANNED: [(&str, &str, &str); 8] = [
    ("to", "do!(", "finish it, or leave it out"),
    ("unimple", "mented!(", "finish it, or leave it out"),
    ("FIX", "ME", "fix it, or file it"),
    ("#[ign", "ore", "a test that does not run proves nothing"),
    ("std::time::Ins", "tant::now", "time is an argument in pure crates"),
    ("/ro", "ot/", "no paths of one machine"),
    ("/wo", "rk/", "no paths of one machine"),
    ("/ho", "me/", "no paths of one machine"),
];

/// Checks the tree.
///
/// # Errors
/// Lists everything that is not tidy.
pub(crate) fn run() -> Result<(), String> {
    let mut faults = Vec::new();
    let files = tracked_files()?;
    for path in &files {
        check_file(path, &mut faults);
    }
    for name in PURE {
        check_pure(name, &mut faults);
    }
    for (name, allowed) in ARROWS {
        check_arrows(name, allowed, &mut faults);
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("not tidy:\n{}", faults.join("\n")))
}

fn tracked_files() -> Result<Vec<PathBuf>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .map_err(|error| format!("cannot run git: {error}"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(paths.filter(|path| root().join(path).is_file()).collect())
}

fn check_file(path: &Path, faults: &mut Vec<String>) {
    let name = path.display();
    let full = root().join(path);
    if fs::metadata(&full).is_ok_and(|data| data.len() > FILE_BYTES) {
        faults.push(format!("{name}: larger than {FILE_BYTES} bytes"));
    }
    let Ok(text) = fs::read_to_string(&full) else { return };
    let pure = PURE.iter().any(|crate_| path.starts_with(format!("crates/{crate_}/src")));
    for (number, line) in text.lines().enumerate() {
        for (head, tail, advice) in BANNED {
            let only_pure = head.starts_with("std::time");
            if line.contains(&format!("{head}{tail}")) && (pure || !only_pure) {
                faults.push(format!("{name}:{}: {head}{tail} ({advice})", number + 1));
            }
        }
    }
    if path.extension().is_some_and(|extension| extension == "rs") {
        check_rust(path, &text, faults);
    }
}

fn check_rust(path: &Path, text: &str, faults: &mut Vec<String>) {
    let name = path.display();
    let first = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
    if !first.starts_with("//!") && !text.contains("#![doc = include_str!") {
        faults.push(format!("{name}:1: a file begins with //! and says what it is for"));
    }
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        if line.chars().count() > COLUMNS && !line.contains("://") {
            faults.push(format!("{name}:{}: more than {COLUMNS} columns", number + 1));
        }
        let indent = line.len() - line.trim_start().len();
        let starts = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn "]
            .iter()
            .any(|head| starts.starts_with(head));
        if open.is_none() && is_function {
            open = Some((number, indent));
        } else if let Some((start, at)) = open
            && indent == at
            && line.trim() == "}"
        {
            let lines = number - start + 1;
            if lines > FUNCTION_LINES {
                let limit = FUNCTION_LINES;
                faults.push(format!("{name}:{}: a function of {lines} > {limit} lines", start + 1));
            }
            open = None;
        } else if let Some((start, at)) = open
            && number == start
            && indent == at
            && line.ends_with(';')
        {
            open = None;
        }
    }
}

fn check_pure(name: &str, faults: &mut Vec<String>) {
    let path = root().join("crates").join(name).join("src/lib.rs");
    let text = fs::read_to_string(path).unwrap_or_default();
    if !text.contains("#![no_std]") {
        faults.push(format!("crates/{name}/src/lib.rs: a pure crate says #![no_std]"));
    }
}

fn check_arrows(name: &str, allowed: &[&str], faults: &mut Vec<String>) {
    let manifest = match name {
        "xtask" => root().join("xtask/Cargo.toml"),
        _ => root().join("crates").join(name).join("Cargo.toml"),
    };
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let dependencies = text.split("\n[").find_map(|table| table.strip_prefix("dependencies]"));
    for line in dependencies.unwrap_or_default().lines() {
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let ours = ARROWS.iter().any(|(crate_, _)| *crate_ == dependency);
        if ours && !allowed.contains(&dependency) {
            faults.push(format!("crates/{name}/Cargo.toml: must not know {dependency}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        if let Err(faults) = super::run() {
            panic!("{faults}");
        }
    }
}
