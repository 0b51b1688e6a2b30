//! Runs training steps on request, as `bench/torch/stage1.py` does: reads lines `CASE STEPS` from standard input, answers
//! each with one line of milliseconds per step. `bench/compare.py` drives both in turn.

#[path = "../benches/stage1/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use cases::{CASES, Step, case};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut steps: BTreeMap<String, Step> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (name, count) = line.split_once(' ').ok_or("expected lines `CASE STEPS`")?;
        if !steps.contains_key(name) {
            let mut step = case(name).ok_or_else(|| format!("no case {name:?}, expected one of {CASES:?}"))?;
            for _ in 0..3 {
                step()?;
            }
            steps.insert(name.to_owned(), step);
        }
        let mut times = Vec::new();
        for _ in 0..count.trim().parse::<usize>()? {
            if let Some(step) = steps.get_mut(name) {
                let start = Instant::now();
                step()?;
                times.push(format!("{:.4}", start.elapsed().as_secs_f64() * 1e3));
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", times.join(" "))?;
        out.flush()?;
    }
    Ok(())
}
