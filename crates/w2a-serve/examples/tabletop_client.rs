//! Rolls out scenes of the embedded simulator against any policy server, and resets between them: what a client of a
//! server that learns has to do.
//!
//! ```sh
//! cargo run --release -p w2a-serve --example tabletop_client -- groot://127.0.0.1:5555 object/0/posttrain/full 0 200
//! ```
//!
//! Arguments: the server, suite/task/split/range, the first scene's number, how many, and chunks an episode (16 if nothing
//! is said). Every chunk is executed for four control steps.

use std::error::Error;
use std::time::Instant;

use w2a_policy::Policy;
use w2a_serve::{Layout, Patience, RemotePolicy};
use w2a_sim::{ACTION_WIDTH, Environment, Scene, Tabletop};

const STEPS: usize = 4;
const CHUNKS: u32 = 16;
/// Episodes between two lines.
const LINE: u32 = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, scenes, first, count, more @ ..] = arguments.as_slice() else {
        return Err("expected: SERVER SUITE/TASK/SPLIT/RANGE FIRST COUNT [CHUNKS]".into());
    };
    let chunks: u32 = more.first().map_or(Ok(CHUNKS), |text| text.parse())?;
    let (first, count): (u32, u32) = (first.parse()?, count.parse()?);
    let mut policy = RemotePolicy::connect(url.parse()?, Layout::tabletop(), None, Patience::default())?;
    let mut environment = Tabletop::new(1);
    let (mut solved, mut of_line, begun) = (0_u32, 0_u32, Instant::now());
    let mut slowest = 0.0_f64;
    for index in 0..count {
        let scene: Scene = format!("{scenes}/{:06}", first + index).parse()?;
        let words = [scene.task_info().instruction];
        let mut seen = environment.reset(&[scene])?;
        let mut success = false;
        for _ in 0..chunks {
            let asked = Instant::now();
            let chunk = policy.act(&seen, &words)?;
            slowest = slowest.max(asked.elapsed().as_secs_f64());
            for action in chunk.chunks_exact(ACTION_WIDTH).take(STEPS) {
                let outcome = environment.step(action)?.pop().ok_or("no outcome")?;
                success |= outcome.success;
                seen = vec![outcome.observation];
            }
        }
        policy.end_episode()?;
        solved += u32::from(success);
        of_line += u32::from(success);
        if (index + 1).is_multiple_of(LINE) || index + 1 == count {
            let (done, seconds) = (index + 1, begun.elapsed().as_secs());
            let left = seconds * u64::from(count - done) / u64::from(done);
            eprintln!(
                "{done} episodes, {seconds} s, about {left} s left: {of_line} of the last solved, {solved} in all"
            );
            of_line = 0;
        }
    }
    eprintln!("{solved} of {count} solved; the slowest answer took {slowest:.2} s");
    Ok(())
}
