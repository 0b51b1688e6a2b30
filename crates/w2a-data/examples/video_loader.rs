//! Our side of the comparison with LeRobot's loader, and the dataset that both read; `bench/video.py` runs it.
//!
//! `video_loader write FOLDER [av1|h264]` writes 2,000 frames of two 256x256 cameras (LeRobot 3.0, ten episodes).
//! `video_loader read FOLDER` answers lines of its standard input: `sequential EPISODES` and `shuffled BATCHES SIZE SEED`
//! each give a line of seconds, steps read, and this process's largest memory so far in MiB.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use rand::Rng;
use w2a_data::video::Encoding;
use w2a_data::{Camera, Dataset, DatasetSpec, DatasetWriter, Episode, Version};

type Failure = Box<dyn std::error::Error>;

const EPISODES: usize = 10;
const FRAMES: usize = 200;
const SIDE: usize = 256;
/// Small against the 750 MiB that the dataset's frames have when decoded.
const CACHE_BYTES: usize = 32 << 20;

/// A disc over moving stripes with a little noise, so that the streams have the size of a real camera's.
fn draw(name: &str, episode: usize, seed: usize) -> Camera {
    let mut noise = w2a_data::stream(0, &format!("bench/video/{episode}/{seed}"));
    let mut rgb = Vec::with_capacity(FRAMES * SIDE * SIDE * 3);
    for frame in 0..FRAMES {
        let centre = (60 + frame / 2 + 9 * seed, 70 + (frame * (2 + episode) / 5) % 120);
        for row in 0..SIDE {
            for column in 0..SIDE {
                let inside = row.abs_diff(centre.0).pow(2) + column.abs_diff(centre.1).pow(2) < 900;
                let stripe = ((row + 2 * column + frame * (seed + 1)) / 16 % 8) as u8 * 24;
                let grain = (noise.next_u32() & 7) as u8;
                let pixel = if inside { [210, 60 + grain, 40] } else { [stripe + grain, 90 + grain, 200 - stripe] };
                rgb.extend_from_slice(&pixel);
            }
        }
    }
    Camera { name: name.into(), height: SIDE, width: SIDE, rgb }
}

fn write(folder: &Path, encoding: Encoding) -> Result<(), Failure> {
    let episode = |index: usize| Episode {
        instruction: ["follow the disc", "cross the stripes"][index % 2].into(),
        source: format!("bench/{index}"),
        fps: 20,
        cameras: vec![draw("left", index, 0), draw("right", index, 1)],
        proprio_dim: 8,
        proprio: (0..FRAMES * 8).map(|i| ((i + index) as f32 * 0.01).sin()).collect(),
        action_dim: 7,
        actions: (0..FRAMES * 7).map(|i| ((i + index) as f32 * 0.02).cos()).collect(),
    };
    let first = episode(0);
    let mut writer = DatasetWriter::create(folder, DatasetSpec::of(&first), Version::V30)?.with_video(encoding, 200)?;
    writer.push(&first)?;
    for index in 1..EPISODES {
        writer.push(&episode(index))?;
        eprintln!("episode {} of {EPISODES}", index + 1);
    }
    Ok(writer.finish()?)
}

/// Largest resident memory of this process so far, in MiB; the decoders are processes of their own.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn read(folder: &Path) -> Result<(), Failure> {
    let dataset = Dataset::open(folder)?;
    let mut steps = dataset.steps(CACHE_BYTES);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let start = Instant::now();
        let (mut count, mut sum) = (0_usize, 0_u64);
        match words[..] {
            ["sequential", episodes] => {
                let mut reader = dataset.reader();
                for index in 0..episodes.parse()? {
                    let episode = reader.read(index % dataset.len())?;
                    count += episode.len();
                    sum +=
                        episode.cameras.iter().map(|camera| u64::from(camera.rgb[camera.rgb.len() - 1])).sum::<u64>();
                }
            }
            ["shuffled", batches, size, seed] => {
                let mut draws = w2a_data::stream(seed.parse()?, "bench/video/shuffled");
                for _ in 0..batches.parse::<usize>()? {
                    let mut below = |limit: usize| draws.next_u32() as usize % limit;
                    let wanted: Vec<(usize, usize)> =
                        (0..size.parse()?).map(|_| (below(EPISODES), below(FRAMES))).collect();
                    for step in steps.read(&wanted)? {
                        count += 1;
                        sum += step.observation.cameras.iter().map(|camera| u64::from(camera.rgb[0])).sum::<u64>();
                    }
                }
            }
            _ => return Err(format!("no such request: {line:?}").into()),
        }
        // The sum keeps the work from being thought away.
        eprintln!("{line}: sum {sum}");
        let mut out = std::io::stdout().lock();
        std::io::Write::write_all(
            &mut out,
            format!("{} {count} {:.1}\n", start.elapsed().as_secs_f64(), peak_mib()).as_bytes(),
        )?;
        std::io::Write::flush(&mut out)?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["write", folder] | ["write", folder, "av1"] => write(folder.as_ref(), Encoding::Av1),
        ["write", folder, "h264"] => write(folder.as_ref(), Encoding::H264),
        ["read", folder] => read(folder.as_ref()),
        _ => Err("usage: video_loader write FOLDER [av1|h264], or video_loader read FOLDER".into()),
    }
}
