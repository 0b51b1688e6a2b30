//! Measures the simulator: expert success per task, and control steps per second on one core.
//!
//! `cargo run --release -p w2a-sim --example measure [SCENES] [THREADS]`
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use w2a_sim::{ACTION_WIDTH, Environment, Range, Scene, SimError, Split, Suite, Tabletop, record_many, tasks};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let scenes = numbers.next().transpose()?.unwrap_or(200);
    let threads = numbers.next().transpose()?.unwrap_or(1) as usize;
    println!("expert, {scenes} full-range training scenes per task, 95 % Wilson interval");
    for suite in Suite::TABLETOP {
        for (task, info) in tasks(suite).into_iter().enumerate() {
            let scenes = (0..scenes)
                .map(|index| Scene::new(suite, task, Split::Train, Range::Full, index))
                .collect::<Result<Vec<_>, SimError>>()?;
            let recordings = record_many(&scenes, 0, threads)?;
            let failed: Vec<_> =
                recordings.iter().filter(|recording| !recording.success).map(|r| r.episode.source.as_str()).collect();
            let (low, high) = wilson(recordings.len() - failed.len(), recordings.len());
            let rate = 100.0 * (recordings.len() - failed.len()) as f64 / recordings.len() as f64;
            let inside = scenes.iter().filter(|scene| scene.in_support()).count();
            let name = info.name;
            println!(
                "{name:24} {rate:5.1} % [{low:.1}, {high:.1}]  in support {inside:3}  failed: {}",
                failed.join(" ")
            );
        }
    }
    println!("speed on one core, both images, random actions");
    for suite in Suite::TABLETOP {
        let mut table = Tabletop::new(1);
        table.reset(&[Scene::new(suite, 0, Split::Train, Range::Full, 0)?])?;
        let (steps, start) = (400_u32, Instant::now());
        for step in 0..steps {
            let mut action = [0.0; ACTION_WIDTH];
            for (entry, value) in action.iter_mut().enumerate() {
                *value = ((step as usize * (entry + 3)) as f32 * 0.1).sin();
            }
            table.step(&action)?;
        }
        println!("{suite:8} {:.0} control steps/s", f64::from(steps) / start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Wilson's 95 % interval of a rate, in per cent.
fn wilson(hits: usize, n: usize) -> (f64, f64) {
    let (n, z2) = (n as f64, 1.96_f64 * 1.96);
    let rate = hits as f64 / n;
    let centre = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (z2 * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
    (100.0 * (centre - half), 100.0 * (centre + half))
}
