//! First frames and instructions of the embedded simulator's scenes, in the layout that `world imagine` reads.

use std::path::PathBuf;

use w2a_sim::{Scene, Tabletop};

use super::create_folder;
use super::inputs::{FIRST_FRAME, PROMPT};
use crate::PipelineError;
use crate::world::first_frames;

/// Which scenes, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenesRequest {
    /// The scenes.
    pub scenes: Vec<Scene>,
    /// From each of them on, so many scenes with consecutive numbers.
    pub count: u32,
    /// The folder; each scene becomes the folder of its name below it.
    pub out: PathBuf,
}

/// Writes the scenes, over what they have written before, and gives their number.
///
/// # Errors
/// A scene that cannot be built, or a disk that fails.
pub fn export_scenes(request: &ScenesRequest) -> Result<usize, PipelineError> {
    let (mut scenes, mut tabletop) = (Vec::new(), Tabletop::new(1));
    for scene in &request.scenes {
        for index in 0..request.count {
            let index = scene.index().saturating_add(index);
            scenes.push(Scene::new(scene.suite(), scene.task(), scene.split(), scene.range(), index)?);
        }
    }
    // Batches bound the memory.
    for part in scenes.chunks(64) {
        for (scene, frame) in part.iter().zip(first_frames(&mut tabletop, part)?) {
            let folder = request.out.join(scene.to_string());
            create_folder(&folder)?;
            let png = w2a_data::encode_png(&frame.rgb, frame.height, frame.width)
                .map_err(|error| PipelineError::io("writing a first frame", std::io::Error::other(error)))?;
            let instruction = format!("{}\n", scene.task_info().instruction);
            for (name, bytes) in [(FIRST_FRAME, &png[..]), (PROMPT, instruction.as_bytes())] {
                w2a_data::write_atomic(&folder.join(name), bytes)
                    .map_err(|error| PipelineError::io("writing a first frame", error))?;
            }
        }
    }
    Ok(scenes.len())
}
