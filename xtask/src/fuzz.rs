//! `cargo xtask fuzz`: builds the targets of `fuzz/`, replays their committed corpora, then fuzzes
//! each for a while. Coverage comes from the stable compiler's LLVM, so that no other toolchain and
//! no tool is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds all targets, replays each committed corpus, then lets each target look for more for
/// `seconds`.
///
/// # Errors
/// If a build fails, a target has no coverage to be guided by, or an input crashes, hangs or
/// overspends; libFuzzer leaves that input in `fuzz/target/artifacts/`.
pub(crate) fn run(seconds: u64) -> Result<(), String> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).map_err(|e| e.to_string())?;
    let targets = target_names(&manifest);
    if targets.is_empty() {
        return Err("fuzz/Cargo.toml lists no targets".into());
    }

    let host = host_triple()?;
    build(&fuzz, &host)?;
    let binaries = fuzz.join("target").join(host).join("release");
    for target in &targets {
        replay(&fuzz, &binaries, target)?;
    }
    for target in &targets {
        search(&fuzz, &binaries, target, seconds)?;
    }
    Ok(())
}

/// The names of the `[[bin]]` tables, in order.
fn target_names(manifest: &str) -> Vec<String> {
    let tables = manifest.split("\n[").filter_map(|table| table.strip_prefix("[bin]]"));
    let lines = tables.filter_map(|table| table.lines().find_map(|l| l.strip_prefix("name = ")));
    lines.map(|name| name.trim().trim_matches('"').to_owned()).collect()
}

/// Naming the host as the target keeps the coverage flags away from build scripts and macros.
fn host_triple() -> Result<String, String> {
    let rustc = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&rustc.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".into())
}

fn build(fuzz: &Path, host: &str) -> Result<(), String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--bins", "--target", host]);
    cargo.arg("--manifest-path").arg(fuzz.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(fuzz.join("target"));
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", RUSTFLAGS.join(" "));
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err("the fuzz targets do not build".into()) }
}

/// Runs what is committed, once; fails also if the compiler quietly stopped counting.
fn replay(fuzz: &Path, binaries: &Path, target: &str) -> Result<(), String> {
    let log = run_target(fuzz, binaries, target, "-runs=0", "corpus-replay")?;
    if !log.contains("inline 8-bit counters") {
        return Err(format!("{target}: not instrumented for coverage\n{log}"));
    }
    println!("{target}: corpus replayed: {}", coverage(&log));
    Ok(())
}

/// Looks for new inputs. What it finds goes to a scratch corpus that later runs go on from; the
/// committed one is only read.
fn search(fuzz: &Path, binaries: &Path, target: &str, seconds: u64) -> Result<(), String> {
    if seconds == 0 {
        return Ok(()); // libFuzzer would take it for "no bound".
    }
    let log = run_target(fuzz, binaries, target, &format!("-max_total_time={seconds}"), "corpus")?;
    println!("{target}: searched for {seconds} s: {}", coverage(&log));
    Ok(())
}

/// Runs a target over its scratch and its committed corpus; what libFuzzer said.
fn run_target(
    fuzz: &Path,
    binaries: &Path,
    target: &str,
    until: &str,
    scratch_name: &str,
) -> Result<String, String> {
    let artifacts = scratch(fuzz, "artifacts", target)?;
    let mut command = Command::new(binaries.join(target));
    command.arg(until).args(BOUNDS).arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(scratch(fuzz, scratch_name, target)?).arg(committed_corpus(fuzz, target)?);
    let output = command.output().map_err(|e| format!("{target}: {e}"))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(log);
    }
    Err(format!("{log}\n{target}: an input fails; if it is new, it is in {}", artifacts.display()))
}

/// libFuzzer's last word on how far it got.
fn coverage(log: &str) -> &str {
    log.lines().rfind(|line| line.contains(" cov: ")).unwrap_or("no coverage").trim()
}

fn committed_corpus(fuzz: &Path, target: &str) -> Result<PathBuf, String> {
    let corpus = fuzz.join("corpus").join(target);
    if corpus.is_dir() { Ok(corpus) } else { Err(format!("{target} has no fuzz/corpus/{target}/")) }
}

/// A directory of the target's own under `fuzz/target/`.
fn scratch(fuzz: &Path, purpose: &str, target: &str) -> Result<PathBuf, String> {
    let path = fuzz.join("target").join(purpose).join(target);
    fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// One input: at most 4 KiB, 10 s and 2 GiB.
const BOUNDS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"];

/// Count every edge and report every comparison to libFuzzer. No sanitizer: the house forbids
/// unsafe code, and sanitizers need a nightly compiler.
const RUSTFLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
];
