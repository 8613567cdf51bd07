//! `maitred simulate`: what a discipline would do to a load, before anybody meets it.
//!
//! A load is a trace of arrivals or a description; both become the same list of requests, and each
//! line is run over that list by itself, in virtual time, with the queues the broker itself uses.
//! The same file and seed give the same answer, on every line the same requests.

mod load;

mod report;

mod rules;

mod run;

mod trace;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::config::Lasting;
use load::Plan;
use report::Report;

/// What to simulate, and how to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A load (.toml) or a trace of arrivals (.csv, or .jsonl with an object a line)
    file: PathBuf,
    /// A line to try, such as `careful:aim=20ms,give_up=500ms`, in the words of the
    /// configuration; may be repeated, instead of the lines of the file
    #[arg(long = "line", value_name = "NAME[:KEY=VALUE,…]")]
    lines: Vec<String>,
    /// Requests that are served at a time
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How long a request is worked on, if a trace does not say
    #[arg(long, value_name = "SPAN")]
    takes: Option<Lasting>,
    /// How long a client waits for its answer
    #[arg(long, value_name = "SPAN")]
    patience: Option<Lasting>,
    /// Another load of the same description
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw a picture (SVG)
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Runs every line over the load and says what came of it.
///
/// # Errors
/// If the file makes no load (exit code 2), or something cannot be read or written.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = simulate(args)?;
    if let Some(path) = &args.plot {
        std::fs::write(path, report.svg())
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

fn simulate(args: &Args) -> Result<Report, Failure> {
    let plan = plan(args)?;
    let rows =
        plan.lines.iter().map(|line| (line.name.clone(), run::run(&plan.load, &line.config)));
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Report { name, rows: rows.collect(), load: plan.load })
}

/// The load and the lines, from the file and what overrides it.
fn plan(args: &Args) -> Result<Plan, Failure> {
    let kind = args.file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut plan = match kind {
        "toml" => load::File::read(&args.file)?,
        "csv" | "jsonl" => load::File::of_trace(&args.file),
        _ => {
            return Err(Failure::config(format!(
                "{}: is it a load or a trace? Name it .toml, .csv or .jsonl",
                args.file.display()
            )));
        }
    };
    plan.override_with(args)?;
    plan.settle()
}

/// Reads a whole file.
fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::config(format!("{}: {error}", path.display())))
}
