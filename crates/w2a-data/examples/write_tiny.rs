//! Writes a tiny dataset of drawn images, for checking that LeRobot opens what this crate writes.
//!
//! `cargo run -p w2a-data --example write_tiny -- FOLDER [v2.1|v3.0] [EPISODES] [images|av1|h264]` prints the time it
//! took.

use std::time::Instant;

use w2a_data::video::Encoding;
use w2a_data::{Camera, Dataset, DatasetSpec, DatasetWriter, Episode, Version};

/// Frames of the first episode; later ones are a frame longer each, up to ten more.
const FRAMES: usize = 12;

/// A square that wanders over a gradient: the images compress like rendered ones and every frame differs.
fn draw(name: &str, frames: usize, side: usize, seed: usize) -> Camera {
    let mut rgb = Vec::with_capacity(frames * side * side * 3);
    for frame in 0..frames {
        for row in 0..side {
            for column in 0..side {
                let inside = row.abs_diff(20 + frame % 30) < 8 && column.abs_diff(20 + seed % 30) < 8;
                let pixel =
                    if inside { [220, 40, 30] } else { [row as u8 * 2, column as u8 * 2, 90 + seed as u8 % 50] };
                rgb.extend_from_slice(&pixel);
            }
        }
    }
    Camera { name: name.into(), height: side, width: side, rgb }
}

fn episode(index: usize) -> Episode {
    let frames = FRAMES + index % 11;
    let wave = |count: usize, speed: f32| (0..count).map(|i| ((i + index) as f32 * speed).sin()).collect();
    Episode {
        instruction: ["put the red block in the bowl", "open the drawer"][index % 2].into(),
        source: format!("tiny/{index}"),
        fps: 20,
        cameras: vec![draw("wrist", frames, 64, index * 3), draw("agent", frames, 64, index * 7)],
        proprio_dim: 9,
        proprio: wave(frames * 9, 0.1),
        action_dim: 7,
        actions: wave(frames * 7, 0.3),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: write_tiny FOLDER [v2.1|v3.0] [EPISODES] [images|av1|h264]";
    let folder = arguments.next().ok_or(usage)?;
    let version = Version::from_name(arguments.next().as_deref().unwrap_or("v3.0")).ok_or(usage)?;
    let count: usize = arguments.next().map_or(Ok(4), |count| count.parse())?;
    let video = match arguments.next().as_deref() {
        None | Some("images") => None,
        Some("av1") => Some(Encoding::Av1),
        Some("h264") => Some(Encoding::H264),
        Some(_) => return Err(usage.into()),
    };
    let examples: Vec<Episode> = (0..count.clamp(1, 22)).map(episode).collect();

    let start = Instant::now();
    let mut writer = DatasetWriter::create(&folder, DatasetSpec::of(&examples[0]), version)?;
    if let Some(video) = video {
        writer = writer.with_video(video, 200)?;
    }
    let mut images = 0;
    for index in 0..count {
        let example = &examples[index % examples.len()];
        images += example.len() * example.cameras.len();
        writer.push(example)?;
    }
    writer.finish()?;
    let written = start.elapsed();

    let start = Instant::now();
    let dataset = Dataset::open(&folder)?;
    let opened = start.elapsed();
    for (index, read) in dataset.episodes().enumerate() {
        let mut read = read?;
        let expected = &examples[index % examples.len()];
        for (camera, pushed) in read.cameras.iter_mut().zip(&expected.cameras).filter(|_| video.is_some()) {
            // Video is not exact: close is what it can be.
            let sum: u64 = camera.rgb.iter().zip(&pushed.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            if camera.rgb.len() == pushed.rgb.len() && sum < 6 * pushed.rgb.len() as u64 {
                camera.rgb.clone_from(&pushed.rgb);
            }
        }
        if read != *expected {
            return Err(format!("episode {index} did not come back as it was written").into());
        }
    }
    let read = start.elapsed();
    let rate = |seconds: f64| images as f64 / seconds;
    eprintln!("{folder}: {version}, {count} episodes, {images} images, fingerprint {}", dataset.fingerprint()?);
    eprintln!(
        "wrote {:.0} images/s, opened in {opened:.1?}, read {:.0} images/s",
        rate(written.as_secs_f64()),
        rate(read.as_secs_f64())
    );
    Ok(())
}
