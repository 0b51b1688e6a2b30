//! Records demonstrations of one suite of the embedded benchmark as a LeRobot dataset.
//!
//! `record SUITE COUNT DIR`: `COUNT` full-range training scenes of each task; those in which the expert fails
//! are left out.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use w2a_data::{DatasetSpec, DatasetWriter, Version};
use w2a_sim::{Range, Scene, Split, Suite, record, tasks};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [suite, count, dir] = &arguments[..] else { return Err("usage: record SUITE COUNT DIR".into()) };
    let suite = Suite::TABLETOP.into_iter().find(|known| known.name() == suite);
    let suite = suite.ok_or("SUITE is object, spatial, goal or long")?;
    let (mut writer, mut failed) = (None, 0);
    for index in 0..count.parse()? {
        for task in 0..tasks(suite).len() {
            let recording = record(Scene::new(suite, task, Split::Train, Range::Full, index)?, 0)?;
            if !recording.success {
                failed += 1;
                continue;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(DatasetWriter::create(dir, DatasetSpec::of(&recording.episode), Version::V30)?),
            };
            writer.push(&recording.episode)?;
        }
    }
    let writer = writer.ok_or("the expert succeeded in no scene")?;
    println!("{} demonstrations of {suite} in {dir}; the expert failed in {failed} scenes", writer.len());
    Ok(writer.finish()?)
}
