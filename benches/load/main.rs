//! Load for a relay, with servers to compare it with: `cargo build --release && cargo run --release
//! --example load`.
//!
//! It starts a pod on one core and, in turn, hand-written baselines on the same core. It drives
//! each of them from the other core with the same requests, checks every delivery, and prints
//! medians and ratios. `docs/PERFORMANCE.md` explains the figures. With `--url` it measures a relay
//! that already runs. It must never pass over a delivery that is missing, repeated or wrong: then
//! it exits with 1.

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

/// Runs the scenarios and prints their figures. Returns whether every delivery was right.
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

/// Prints one line of progress to standard error.
fn progress(text: &str) {
    // if this fails, standard error is closed and progress has no reader
    let _ = writeln!(io::stderr(), "load: {text}");
}
