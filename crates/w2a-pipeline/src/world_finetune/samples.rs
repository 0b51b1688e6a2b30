//! What the world model imagines during its training, beside what happened.

use std::path::PathBuf;

use w2a_report::{Picture, filmstrip, gif};
use w2a_sim::CONTROL_HZ;
use w2a_world::cosmos::{Cosmos, Dit};
use w2a_world::{Latents, WorldModel};

use super::corpus::Corpus;
use crate::PipelineError;
use crate::context::model;

/// Pixels between pictures.
const GAP: usize = 4;
/// Seed of the noise, the same at every step so that pictures can be compared.
const SEED: u32 = 0;

/// A sample of the training: which clips, and where pictures go.
pub(super) struct Samples<'a> {
    pub corpus: &'a Corpus,
    /// Opens the model, whose autoencoder is then needed for a moment only.
    pub open: &'a dyn Fn() -> Result<Cosmos, PipelineError>,
    pub dir: PathBuf,
    pub count: usize,
}

impl Samples<'_> {
    /// Imagines clips that are spread over the corpus with `dit` and writes `step_N.gif`: what happened on the left, what was
    /// imagined from its first frame on the right. Gives their mean squared difference in latents; `None` where the picture is
    /// there already.
    ///
    /// # Errors
    /// A sampler, a decoder or a disk that fails.
    pub fn take(&self, dit: &Dit, step: usize) -> Result<Option<f32>, PipelineError> {
        let path = self.dir.join(format!("step_{step:06}.gif"));
        if path.exists() {
            return Ok(None);
        }
        let world = (self.open)()?;
        let clips = self.corpus.clips.len();
        let (mut rows, mut error): (Vec<[Vec<Picture>; 2]>, f32) = (Vec::new(), 0.0);
        let count = self.count.min(clips);
        for number in 0..count {
            let clip = number * clips / count.max(1);
            let truth = model(self.corpus.latents(clip))?;
            let Some(entry) = self.corpus.clips.get(clip) else { continue };
            let dream = model(world.imagine_from(dit, &truth, &entry.prompt, truth.chunks(), SEED))?;
            let distance = dream.distance(&truth);
            error += distance.iter().sum::<f32>() / distance.len().max(1) as f32 / count as f32;
            rows.push([pictures(&world, &truth)?, pictures(&world, &dream)?]);
        }
        let frames = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
        let film: Vec<Picture> = (0..frames)
            .map(|frame| {
                let row = |row: &[Vec<Picture>; 2]| row.iter().filter_map(|film| film.get(frame).cloned()).collect();
                filmstrip(&rows.iter().map(row).collect::<Vec<Vec<Picture>>>(), GAP)
            })
            .collect::<Result<_, _>>()?;
        let fps = u16::try_from(CONTROL_HZ).unwrap_or(u16::MAX);
        w2a_data::write_atomic(&path, &gif(&film, fps)?)
            .map_err(|error| PipelineError::io("writing a sample", error))?;
        Ok(Some(error))
    }
}

fn pictures(world: &Cosmos, latents: &Latents) -> Result<Vec<Picture>, PipelineError> {
    let mut all = Vec::new();
    for video in model(world.decode(std::slice::from_ref(latents)))? {
        all.extend(crate::report::pictures(&video)?);
    }
    Ok(all)
}
