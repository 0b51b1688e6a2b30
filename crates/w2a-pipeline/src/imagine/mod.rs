//! `world imagine`: a trained world model's latents for a folder of first frames and prompts.

mod embed;
mod error;
mod inputs;
mod preview;
mod scenes;
mod source;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use w2a_report::Progress;
use w2a_world::{
    Imagination, LatentCache, ModelId, Rig, Skill, WorldModel, image_digest, imagine_chain, load_imagination,
    save_imagination,
};

pub(crate) use embed::embed_missing;
pub use embed::{EmbedRequest, embed_prompts};
pub use error::ImagineError;
pub use preview::{PreviewRequest, preview};
pub use scenes::{ScenesRequest, export_scenes};
pub use source::{WorldSource, cosmos_settings};

use crate::PipelineError;
use crate::context::model;
use inputs::{Episode, PROMPT};
pub(crate) use source::opened;

/// The result of an episode.
const LATENTS: &str = "latents.safetensors";
/// More reasons than anyone reads; the number of episodes at fault is said in any case.
const MOST_REASONS: usize = 20;

/// One of several processes that share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl FromStr for Shard {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err(PipelineError::Config {
                key: "--shard".into(),
                expected: "i/n with i from 0 to n - 1, such as 0/4".into(),
                got: format!("{text:?}"),
            }),
        }
    }
}

/// What to imagine.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagineRequest {
    /// The folder of episodes, in the layout of the authors' release.
    pub input: PathBuf,
    /// The world model.
    pub world: WorldSource,
    /// Where results go, under the paths of their episodes.
    pub out: PathBuf,
    /// A cache to share with other calls.
    pub cache: Option<PathBuf>,
    /// Chunks of every skill; `None` for as many as a clip of the model has.
    pub chunks: Option<usize>,
    /// Name the views of this rig in every prompt.
    pub rig: Option<Rig>,
    /// The part of the work to do.
    pub shard: Shard,
    /// Seed of every episode's random stream.
    pub seed: u64,
    /// Whether to go on without episodes that are at fault.
    pub skip_bad: bool,
    /// Bytes of memory to stay within; those of the machine without a number.
    pub memory: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imagined {
    /// Episodes imagined now.
    pub made: usize,
    /// Episodes whose result was there or in the cache.
    pub reused: usize,
    /// Chunks of latents of both.
    pub chunks: usize,
    /// Why episodes were left out, one message each.
    pub skipped: Vec<String>,
}

impl Imagined {
    /// A few lines for the terminal.
    pub fn summary(&self) -> String {
        let Self { made, reused, chunks, skipped } = self;
        let mut text = format!(
            "{made} episodes imagined, {reused} known before, {} left out; {chunks} chunks of latents\n",
            skipped.len()
        );
        for reason in skipped.iter().take(MOST_REASONS) {
            let _ = writeln!(text, "left out: {reason}");
        }
        if let Some(more) = skipped.len().checked_sub(MOST_REASONS).filter(|more| *more > 0) {
            let _ = writeln!(text, "and {more} more");
        }
        text
    }
}

/// Imagines every episode of a shard that is not done yet. `announce` is told what memory is needed before anything is computed.
///
/// An episode's latents depend on the model, its first frame, its prompts, the chunks, the seed and its path in the input
/// folder: not on the order, the shard or the other episodes. A result that was made from other things is made anew.
///
/// # Errors
/// An input, a world model or a place for results that cannot be used, too little memory, an episode at fault unless these are left out, a
/// device that fails, a full disk. What was imagined before stays.
pub fn imagine(request: &ImagineRequest, announce: &mut dyn FnMut(&str)) -> Result<Imagined, PipelineError> {
    let planned = inputs::plan(&request.input)?;
    refuse_out_in_input(request)?;
    let mine = planned.into_iter().skip(request.shard.index).step_by(request.shard.count.max(1));
    let mine: Vec<Result<Episode, ImagineError>> = if request.skip_bad {
        mine.collect()
    } else {
        // Faults of names are known before minutes of work, and end it.
        mine.map(|episode| episode.map(Ok)).collect::<Result<_, ImagineError>>()?
    };
    let (mut world, id) = opened(&request.world)?;
    let episodes: Vec<&Episode> = mine.iter().flatten().collect();
    world.check_prompts(&episodes, request.rig)?;
    let chunks = request.chunks.unwrap_or(world.world().max_chunks());
    let clips = chunks.div_ceil(world.world().max_chunks().max(1)) as u64;
    let is_chained = clips > 1 || episodes.iter().any(|episode| episode.prompts.len() > 1);
    world.check_memory(chunks, is_chained, request.memory, announce)?;
    // How much work an episode is, counted in steps of the model.
    let weight = |episode: &Result<Episode, ImagineError>| {
        let prompts = episode.as_ref().map_or(1, |episode| episode.prompts.len() as u64);
        prompts * clips * world.steps_of_clip()
    };
    let weights: Vec<u64> = mine.iter().map(weight).collect();
    let (total, position) = (weights.iter().sum::<u64>(), Arc::new(AtomicU64::new(0)));
    let progress = Arc::new(Progress::new(&[("imagine", 1.0)]));
    let (seen, counter) = (Arc::clone(&progress), Arc::clone(&position));
    world.on_step(move || seen.tick(counter.fetch_add(1, Ordering::Relaxed) + 1, total, "steps of the sampler"));
    progress.start("imagine");
    let (mut done, mut until) = (Imagined::default(), 0);
    for (episode, weight) in mine.into_iter().zip(weights) {
        let name = episode.as_ref().map_or(String::new(), |episode| episode.name.clone());
        let found =
            episode.map_err(PipelineError::from).and_then(|episode| one(request, world.world(), &id, &episode, chunks));
        until += weight;
        position.store(until, Ordering::Relaxed);
        match found {
            Ok((chunks, is_new)) => {
                done.chunks += chunks;
                if is_new {
                    done.made += 1;
                    progress.tick(until, total, &name);
                } else {
                    done.reused += 1;
                    progress.credit(until, total);
                }
            }
            Err(PipelineError::Imagine(error @ ImagineError::Episode { .. })) if request.skip_bad => {
                progress.credit(until, total);
                done.skipped.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    progress.finish("imagine");
    Ok(done)
}

/// Imagines one episode, or finds that it is done. Gives its number of chunks and whether they were imagined now.
fn one(
    request: &ImagineRequest,
    world: &dyn WorldModel,
    id: &ModelId,
    episode: &Episode,
    chunks: usize,
) -> Result<(usize, bool), PipelineError> {
    let prompts = episode.read_prompts()?;
    let first = episode.read_first_frame(world.frame_size())?;
    let prompts: Vec<String> = match request.rig {
        None => prompts,
        Some(rig) => prompts.iter().map(|prompt| rig.prompt(prompt)).collect(),
    };
    let source = Imagination {
        model: id.clone(),
        first_frame: image_digest(&first),
        chunks: vec![chunks; prompts.len()],
        prompts,
        seed: request.seed,
        stream: format!("imagine/{}", episode.name),
    };
    let folder = request.out.join(&episode.name);
    let path = folder.join(LATENTS);
    if path.symlink_metadata().is_ok() {
        let (found, latents) = load_imagination(&path).map_err(|_| ImagineError::Occupied {
            path: path.clone(),
            reason: "is no undamaged result of this command",
        })?;
        if found == source {
            return Ok((latents.chunks(), false));
        }
    }
    let cache = request.cache.as_ref().map(LatentCache::new);
    let known = match &cache {
        Some(cache) => model(cache.get(&source))?,
        None => None,
    };
    let is_new = known.is_none();
    let latents = match known {
        Some(latents) => latents,
        None => {
            let skills: Vec<Skill> = source.prompts.iter().map(|prompt| Skill { prompt, chunks }).collect();
            let mut rng = w2a_data::stream(request.seed, &source.stream);
            let latents = model(imagine_chain(world, &first, &skills, &mut rng))?;
            if let Some(cache) = &cache {
                model(cache.put(&source, &latents))?;
            }
            latents
        }
    };
    create_folder(&folder)?;
    // The latents come last: where they are, the prompts are too.
    let line = |prompt: &String| prompt.lines().collect::<Vec<_>>().join(" ") + "\n";
    let text: String = source.prompts.iter().map(line).collect();
    w2a_data::write_atomic(&folder.join(PROMPT), text.as_bytes())
        .map_err(|error| PipelineError::io("writing a prompt", error))?;
    model(save_imagination(&path, &source, &latents))?;
    Ok((latents.chunks(), is_new))
}

/// Makes a folder for results.
pub(crate) fn create_folder(path: &Path) -> Result<(), PipelineError> {
    fs_err::create_dir_all(path).map_err(|error| match error.kind() {
        ErrorKind::StorageFull => PipelineError::io("creating a folder", error),
        _ => {
            let expected = "a folder that can be made and written to".into();
            ImagineError::Place { path: path.to_owned(), expected, got: error.to_string() }.into()
        }
    })
}

/// Results below the input would be the next call's episodes.
fn refuse_out_in_input(request: &ImagineRequest) -> Result<(), PipelineError> {
    let real = |path: &Path| fs_err::canonicalize(path).map_err(|error| PipelineError::io("finding a folder", error));
    let input = real(&request.input)?;
    let absolute = std::path::absolute(&request.out).map_err(|error| PipelineError::io("finding a folder", error))?;
    // What does not exist yet cannot be a link.
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if real(existing)?.starts_with(&input) {
        return Err(ImagineError::Place {
            path: request.input.clone(),
            expected: "an --out outside of it, or its results would be taken for episodes".into(),
            got: request.out.display().to_string(),
        }
        .into());
    }
    Ok(())
}
