//! `world preview`: latents as a moving picture, for people.

use std::path::{Path, PathBuf};

use w2a_data::video::{Encoding, VideoWriter};
use w2a_report::{Picture, apng, filmstrip, gif};
use w2a_sim::CONTROL_HZ;
use w2a_world::load_latents;

use super::error::ImagineError;
use super::{WorldSource, create_folder, opened};
use crate::PipelineError;
use crate::context::model;

/// Small pictures are enlarged to about so many columns.
const COLUMNS: usize = 768;
/// And by so much at most.
const MOST_SCALE: usize = 4;
/// Pixels between two videos.
const GAP: usize = 4;

/// Which latents, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewRequest {
    /// Files of latents.
    pub latents: Vec<PathBuf>,
    /// The world model they are of.
    pub world: WorldSource,
    /// The picture: a GIF, an animated PNG or an mp4 video, by the ending of its name.
    pub out: PathBuf,
    /// Most videos to show.
    pub count: usize,
}

/// The formats of a preview by the endings of their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Gif,
    Apng,
    Mp4,
}

/// Decodes the first videos of the files and writes them as one moving picture, in rows and columns; shorter ones hold
/// their last frame. Gives a line for the terminal.
///
/// # Errors
/// An ending that is no format, a picture that exists, latents of another model, no ffmpeg for an mp4 video, or a disk that
/// fails.
pub fn preview(request: &PreviewRequest) -> Result<String, PipelineError> {
    let ending = request.out.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let format = match ending.as_deref() {
        Some("gif") => Format::Gif,
        Some("png" | "apng") => Format::Apng,
        Some("mp4") => Format::Mp4,
        _ => {
            return Err(PipelineError::Config {
                key: "--out".into(),
                expected: "a name that ends in .gif, .mp4, or .png for an animated PNG".into(),
                got: request.out.display().to_string(),
            });
        }
    };
    if request.out.symlink_metadata().is_ok() {
        return Err(ImagineError::Occupied { path: request.out.clone(), reason: "is not overwritten" }.into());
    }
    let (opened, _) = opened(&request.world)?;
    let world = opened.world();
    let (mut videos, mut all) = (Vec::new(), 0);
    for path in &request.latents {
        let found = model(load_latents(path))?;
        if let Some(other) = found.iter().find(|latents| latents.shape != world.latent_shape()) {
            let expected = format!("latents of this world model, {:?}", world.latent_shape());
            return Err(ImagineError::Place { path: path.clone(), expected, got: format!("{:?}", other.shape) }.into());
        }
        all += found.len();
        videos.extend(found.into_iter().take(request.count.saturating_sub(videos.len())));
    }
    let mut strips = Vec::with_capacity(videos.len());
    for latents in &videos {
        let decoded = model(world.decode(std::slice::from_ref(latents)))?;
        for video in decoded {
            strips.push(crate::report::pictures(&video)?);
        }
    }
    let frames = tiled(&strips)?;
    if let Some(folder) = request.out.parent() {
        create_folder(folder)?;
    }
    write(&request.out, format, &frames)?;
    Ok(format!("{} of {all} videos, {} frames each: {}\n", strips.len(), frames.len(), request.out.display()))
}

fn write(path: &Path, format: Format, frames: &[Picture]) -> Result<(), PipelineError> {
    let fps = u16::try_from(CONTROL_HZ).unwrap_or(u16::MAX);
    let bytes = match format {
        Format::Gif => gif(frames, fps)?,
        Format::Apng => apng(frames, fps)?,
        Format::Mp4 => {
            let (height, width) = frames.first().map_or((0, 0), Picture::size);
            // Read by everything, which matters more here than the size of the file.
            let mut writer = VideoWriter::create(path, Encoding::H264, height, width, CONTROL_HZ)?;
            for frame in frames {
                let rgb: Vec<u8> =
                    frame.rgba().as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
                writer.push(&rgb)?;
            }
            return Ok(writer.finish()?);
        }
    };
    w2a_data::write_atomic(path, &bytes).map_err(|error| PipelineError::io("writing a preview", error))
}

/// All videos at once, in about as many columns as rows.
fn tiled(videos: &[Vec<Picture>]) -> Result<Vec<Picture>, PipelineError> {
    let columns = (1..).find(|side| side * side >= videos.len()).unwrap_or(1);
    let len = videos.iter().map(Vec::len).max().unwrap_or(0);
    (0..len)
        .map(|frame| {
            let shown: Vec<Picture> =
                videos.iter().filter_map(|video| video.get(frame).or(video.last())).cloned().collect();
            let rows: Vec<Vec<Picture>> = shown.chunks(columns).map(<[Picture]>::to_vec).collect();
            let picture = filmstrip(&rows, GAP)?;
            let scale = COLUMNS / picture.size().1.max(1);
            Ok(picture.upscale(scale.clamp(1, MOST_SCALE)))
        })
        .collect()
}
