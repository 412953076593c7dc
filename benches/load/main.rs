//! A load for relays, and what to compare them with: `cargo build --release && cargo run --release --example load`.
//!
//! It starts a pod on one core and, turn by turn, hand-written baselines on the same core; drives them all from the
//! other core with the same requests; checks every delivery; and prints medians and ratios. `docs/PERFORMANCE.md` says
//! what the figures mean. With `--url` it measures a relay that runs already. It exits with 1 if a delivery was
//! missing, repeated or wrong.

mod arguments;
mod baseline;
mod bench;
mod collector;
mod naive;
mod process;
mod report;
mod scenario;
mod swarm;
mod tally;
mod wire;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::json;

use self::{
    arguments::{Options, Task},
    bench::Bench,
};

fn main() -> ExitCode {
    let done = arguments::read().and_then(|task| match task {
        Task::Measure(options) => measure(*options),
        Task::Baseline { kind, listen, frame_bytes } => match kind.writes() {
            Some(writes) => baseline::run(listen, writes, frame_bytes).map(|()| true),
            None => naive::run(listen).map(|()| true),
        },
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether every delivery was right.
fn measure(options: Options) -> anyhow::Result<bool> {
    let mut bench = Bench::open(options)?;
    let mut out = io::stdout();
    let mut sheets = Vec::new();
    for name in bench.options.scenarios.clone() {
        for sheet in scenario::run(&mut bench, &name)? {
            if bench.options.is_json {
                sheets.push(sheet.json());
            } else {
                writeln!(out, "{}", sheet.table())?;
            }
        }
    }
    let tally::Faults { missing, duplicate, wrong } = bench.faults;
    if bench.options.is_json {
        let faults = json!({"missing": missing, "duplicate": duplicate, "wrong": wrong});
        writeln!(out, "{:#}", json!({"sheets": sheets, "faults": faults}))?;
    } else {
        writeln!(out, "deliveries missing {missing}, duplicate {duplicate}, wrong {wrong}")?;
    }
    Ok(!bench.faults.any())
}

/// A line about what is under way.
fn progress(text: &str) {
    // nobody reads it if this fails
    let _ = writeln!(io::stderr(), "load: {text}");
}
