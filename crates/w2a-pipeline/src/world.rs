//! The world model: autoencoder, latents of the videos, latent video model, imagination of the post-training scenes.

use rand_chacha::ChaCha8Rng;
use w2a_data::Dataset;
use w2a_nn::{Checkpoint, Init};
use w2a_sim::{Environment, Scene, Split, Suite, batches};
use w2a_world::{
    Anchor, FlowSample, Forecast, GridVideo, LatentStatistics, Latents, Layout, Skill, VideoAutoencoder, grid_video,
    load_latents, save_latents, save_statistics, train_autoencoder, train_flow,
};

use crate::arms::Arm;
use crate::clips::{ClipList, Cutter};
use crate::context::{Context, depends, load_json, model, save_json};
use crate::corpus::{Corpus, corpus};
use crate::data::{ORACLE, VIDEO, scenes};
use crate::horizon::Horizon;
use crate::run_world::{RunWorld, WorldKind, settle, sizes};
use crate::{Config, PipelineError};

pub(crate) const AUTOENCODER: &str = "world/autoencoder";
pub(crate) const FLOW: &str = "world/flow";
/// Latents of the expert's real video of the post-training scenes.
pub(crate) const EXPERT: &str = "latents/expert_posttrain";
/// How far imagination and real video lie apart.
pub(crate) const HORIZON: &str = "world/horizon.json";

/// The scenes that are imagined, as file names call them.
pub(crate) const POSTTRAIN: &str = "posttrain";
pub(crate) const TUNE: &str = "tune";

/// Cameras in the grid image.
pub(crate) const CAMERAS: usize = 2;
/// A latent video model of a run. All share the autoencoder and the statistics of the latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Imaginer {
    /// The one that the method uses.
    Main,
    /// What it is compared with where it imagines skill by skill: the same model of windows of the videos.
    WithoutSkills,
}

impl Imaginer {
    /// The models of a run; the main one comes first.
    pub fn all(config: &Config) -> impl Iterator<Item = Self> + use<> {
        let second = Arm::BaseWorld.takes_part(config).then_some(Self::WithoutSkills);
        std::iter::once(Self::Main).chain(second)
    }

    /// What a reader calls it.
    pub fn label(self, config: &Config) -> &'static str {
        match (self, config.world.skills) {
            (Self::Main, true) => "Skill-WM",
            (Self::Main, false) => "world model",
            (Self::WithoutSkills, _) => "Base-WM",
        }
    }

    /// Whether it is trained on skills and imagines prompt by prompt.
    pub fn by_skills(self, config: &Config) -> bool {
        config.world.skills && self == Self::Main
    }

    /// How videos become what it is trained on.
    pub fn cutter(self, config: &Config) -> Result<Cutter, PipelineError> {
        if self.by_skills(config) {
            return Cutter::by_skills();
        }
        Ok(Cutter::Windows(config.world.model.flow.chunks))
    }

    /// Where its training lives.
    pub fn flow(self) -> String {
        format!("{FLOW}{}", self.suffix())
    }

    /// Where its corpus lives, without endings.
    pub fn corpus(self) -> String {
        format!("latents/corpus{}", self.suffix())
    }

    /// Where its imaginations of the scenes `which` live, without the ending.
    pub fn imagined(self, which: &str) -> String {
        format!("latents/imagined_{which}{}", self.suffix())
    }

    fn suffix(self) -> &'static str {
        if self == Self::Main { "" } else { "_base_wm" }
    }

    fn load(self, context: &Context) -> Result<RunWorld, PipelineError> {
        RunWorld::load(&context.config, &context.out, &self.flow(), &context.device)
    }
}

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    if context.config.world.kind == WorldKind::Cosmos {
        // Nothing is trained here; what may be missing or another one is known before hours of work.
        settle(context)?;
        let tasks = context.config.tasks()?;
        load(context)?
            .check_instructions(tasks.iter().map(|(suite, task)| w2a_sim::tasks(*suite)[*task].instruction))?;
        return imagine_all(context);
    }
    let autoencoder = autoencoder(context)?;
    let mut statistics = None;
    for imaginer in Imaginer::all(&context.config) {
        let mut corpus = corpus(context, &autoencoder, imaginer)?;
        // One scale for all models: their imaginations are compared, and stage 1 reads the latents of any of them.
        let statistics = statistics.get_or_insert_with(|| LatentStatistics::of(&corpus.latents, 0.5));
        for latents in &mut corpus.latents {
            statistics.normalise(&mut latents.data);
        }
        flow(context, &autoencoder, imaginer, &corpus, statistics)?;
    }
    imagine_all(context)
}

/// Trains a latent video model on a corpus of normalised latents.
fn flow(
    context: &mut Context,
    autoencoder: &VideoAutoencoder,
    imaginer: Imaginer,
    corpus: &Corpus,
    statistics: &LatentStatistics,
) -> Result<(), PipelineError> {
    let config = context.config.world.clone();
    let (height, width) = context.config.grid();
    let shape = model(autoencoder.latent_shape(height, width, config.model.autoencoder.channels))?;
    let folder = context.folder(&imaginer.flow())?;
    model(save_statistics(&folder.join("statistics.safetensors"), statistics, shape))?;
    let Corpus { latents, first, list } = corpus;
    let samples: Vec<FlowSample> = latents
        .iter()
        .zip(&list.clips)
        .zip(first)
        .map(|((latents, clip), first)| FlowSample { first, latents: &latents.data, instruction: &clip.prompt })
        .collect();
    let forecast = (config.model.flow.anchor == Anchor::Forecast)
        .then(|| Forecast::fit(latents.iter().map(|latents| latents.data.as_slice()), shape));
    if let Some(forecast) = &forecast {
        model(forecast.save(&folder.join("forecast.safetensors"), shape))?;
    }
    let upstream = (sizes(&config.model), &context.config.data, &config.autoencoder_train, config.autoencoder_videos);
    let upstream = depends(&(upstream, imaginer.by_skills(&context.config)));
    context.training(&imaginer.flow(), &config.flow_train, upstream, |context, training, steps| {
        let (device, progress) = (context.device.clone(), &context.progress);
        let (config, forecast) = (&config.model.flow, forecast.as_ref());
        model(train_flow(config, training, shape, &samples, forecast, &device, |report| steps.step(progress, report)))
    })?;
    Ok(())
}

/// Loads the world model.
pub(crate) fn load(context: &Context) -> Result<RunWorld, PipelineError> {
    Imaginer::Main.load(context)
}

/// Post-training scenes, all tasks.
pub(crate) fn posttrain_scenes(config: &Config) -> Result<Vec<Scene>, PipelineError> {
    scenes(config, Split::Posttrain, config.ranges()[0], 0, config.data.posttrain_scenes)
}

/// Scenes on which gains are chosen, all tasks.
pub(crate) fn tune_scenes(config: &Config) -> Result<Vec<Scene>, PipelineError> {
    scenes(config, Split::Tune, config.ranges()[0], 0, config.data.tune_scenes)
}

/// Latents of a file of the run, such as [`EXPERT`] or [`Imaginer::imagined`].
pub(crate) fn latents(context: &Context, name: &str) -> Result<Vec<Latents>, PipelineError> {
    model(load_latents(&context.path(&format!("{name}.safetensors"))))
}

fn autoencoder(context: &mut Context) -> Result<VideoAutoencoder, PipelineError> {
    let config = context.config.world.clone();
    let (frames, chunks) = (config.model.autoencoder.frames, context.config.chunks());
    let done = Checkpoint::new(context.path(AUTOENCODER)).step()? >= config.autoencoder_train.steps;
    let mut videos = Vec::new();
    if !done {
        let dataset = Dataset::open(context.path(VIDEO))?;
        for episode in dataset.episodes().take(config.autoencoder_videos) {
            videos.push(model(grid_video(&episode?, frames, chunks))?);
        }
    }
    let upstream = depends(&(&config.model.autoencoder, &context.config.data, config.autoencoder_videos));
    context.training(AUTOENCODER, &config.autoencoder_train, upstream, |context, training, steps| {
        let (device, progress) = (context.device.clone(), &context.progress);
        if done {
            let mut rng = w2a_data::stream(0, "load");
            let fresh = VideoAutoencoder::new(&config.model.autoencoder, &mut Init { rng: &mut rng, device: &device });
            return model(Checkpoint::new(context.path(AUTOENCODER)).load(fresh));
        }
        model(train_autoencoder(&config.model.autoencoder, training, &videos, &device, |report| {
            steps.step(progress, report);
        }))
    })
}

fn imagine_all(context: &mut Context) -> Result<(), PipelineError> {
    let chunks = context.config.chunks();
    for imaginer in Imaginer::all(&context.config) {
        let dreamer = Dreamer::load(context, imaginer)?;
        for (which, scenes) in [(POSTTRAIN, posttrain_scenes(&context.config)?), (TUNE, tune_scenes(&context.config)?)]
        {
            let part = imaginer.imagined(which);
            let path = context.path(&format!("{part}.safetensors"));
            if path.exists() {
                continue;
            }
            context.progress.part(&part);
            context.folder("latents")?;
            let mut out = Vec::with_capacity(scenes.len());
            // A clip of a large model takes hours, which a run that is killed should not lose.
            let at_once = if dreamer.world.is_large() { 1 } else { 32 };
            let done = |index: usize| context.path(&format!("{part}.{index:06}.partial"));
            let batches: Vec<&[Scene]> = scenes.chunks(at_once).collect();
            for (index, scenes_of) in batches.iter().enumerate() {
                if done(index).exists() {
                    out.extend(model(load_latents(&done(index)))?);
                } else {
                    let latents = dreamer.imagine(context, scenes_of, &format!("imagine/{which}/{index}"))?;
                    model(save_latents(&done(index), &latents))?;
                    out.extend(latents);
                }
                context.progress.tick(out.len(), scenes.len(), &format!("imagining {which} scenes"));
            }
            model(save_latents(&path, &out))?;
            for index in 0..batches.len() {
                fs_err::remove_file(done(index))
                    .map_err(|error| PipelineError::io("removing a partial result", error))?;
            }
        }
    }
    let world = load(context)?;
    let path = context.path(&format!("{EXPERT}.safetensors"));
    if !context.path(ORACLE).exists() {
        return Ok(());
    }
    if !path.exists() {
        let mut out = Vec::new();
        for episode in Dataset::open(context.path(ORACLE))?.episodes() {
            let video = model(grid_video(&episode?, world.chunk_len(), chunks))?;
            out.extend(model(world.encode(&[video]))?);
        }
        model(save_latents(&path, &out))?;
    }
    let path = context.path(HORIZON);
    if !path.exists() {
        let real = latents(context, EXPERT)?;
        // The expert may have been recorded in the first scenes only.
        let of = |imaginer: Imaginer| {
            let mut imagined = latents(context, &imaginer.imagined(POSTTRAIN))?;
            imagined.truncate(real.len());
            Ok((imaginer.label(&context.config), imagined))
        };
        let imagined = Imaginer::all(&context.config).map(of).collect::<Result<Vec<_>, PipelineError>>()?;
        let average = average_videos(context, real.len())?;
        save_json(&path, &Horizon::of(world.statistics(), &real, &imagined, &average))?;
    }
    Ok(())
}

/// The average training video of the task of each of the first `count` post-training scenes; none where the corpus has
/// parts of episodes, or there is none.
fn average_videos(context: &Context, count: usize) -> Result<Vec<Latents>, PipelineError> {
    let name = Imaginer::Main.corpus();
    let list = context.path(&format!("{name}_clips.json"));
    if !list.exists() {
        return Ok(Vec::new());
    }
    let (list, corpus): (ClipList, _) = (load_json(&list, "world")?, latents(context, &name)?);
    let whole = 0..context.config.chunks();
    let of_task = |(suite, task): (Suite, usize)| {
        let words = w2a_sim::tasks(suite)[task].instruction;
        let shown = list.clips.iter().map(|clip| clip.chunks == whole && clip.prompt == words);
        Latents::average(corpus.iter().zip(shown).filter(|(_, shown)| *shown).map(|(video, _)| video))
    };
    // Scenes go through the tasks in turns.
    let averages: Option<Vec<Latents>> = context.config.tasks()?.into_iter().map(of_task).collect();
    Ok(averages.map_or_else(Vec::new, |averages| averages.into_iter().cycle().take(count).collect()))
}

/// A latent video model, and how it imagines whole episodes.
pub(crate) struct Dreamer {
    world: RunWorld,
    /// What its skills were cut from; `None` if it has none.
    skills: Option<ClipList>,
}

impl Dreamer {
    /// Loads a trained model.
    pub fn load(context: &Context, imaginer: Imaginer) -> Result<Self, PipelineError> {
        let clips = context.path(&format!("{}_clips.json", imaginer.corpus()));
        let skills = imaginer.by_skills(&context.config).then(|| load_json(&clips, "world")).transpose()?;
        Ok(Self { world: imaginer.load(context)?, skills })
    }

    /// Imagines the episodes of some scenes; the random stream is named by `purpose`.
    ///
    /// Prompt by prompt with skills; without, the whole instruction again from the last frame of every clip, if one
    /// clip is not the episode.
    pub fn imagine(&self, context: &Context, scenes: &[Scene], purpose: &str) -> Result<Vec<Latents>, PipelineError> {
        let (seed, chunks) = (context.config.seed, context.config.chunks());
        let first = context.acting(|environment| first_frames(environment, scenes))?;
        if self.skills.is_none() && chunks <= self.world.max_chunks() {
            let words: Vec<&str> = scenes.iter().map(|scene| scene.task_info().instruction).collect();
            return model(self.world.imagine(&first, &words, chunks, &mut w2a_data::stream(seed, purpose)));
        }
        let chain = |(first, scene): (&GridVideo, &Scene)| {
            let plan = match &self.skills {
                Some(clips) => clips.plan(scene, chunks)?,
                None => vec![Skill { prompt: scene.task_info().instruction, chunks }],
            };
            let mut rng = w2a_data::stream(seed, &format!("{purpose}/{scene}"));
            model(self.world.chain(first, &plan, &mut rng))
        };
        first.iter().zip(scenes).map(chain).collect()
    }
}

impl Dreamer {
    /// Imagines the episode that begins with `first`, of which only the instruction is known.
    pub fn imagine_told(
        &self,
        first: &GridVideo,
        instruction: &str,
        chunks: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Latents, PipelineError> {
        let plan = match &self.skills {
            Some(clips) => clips.plan_told(instruction, chunks)?,
            None => vec![Skill { prompt: instruction, chunks }],
        };
        model(self.world.chain(first, &plan, rng))
    }
}

/// The first grid image of each scene.
pub(crate) fn first_frames(
    environment: &mut dyn Environment,
    scenes: &[Scene],
) -> Result<Vec<GridVideo>, PipelineError> {
    let mut frames = Vec::with_capacity(scenes.len());
    for batch in batches(scenes, environment.capacity()) {
        let some: Vec<Scene> = batch.iter().map(|(_, scene)| *scene).collect();
        for ((place, _), observation) in batch.iter().zip(environment.reset(&some)?) {
            frames.push((*place, model(Layout::SideBySide.compose(&observation.cameras))?));
        }
    }
    frames.sort_by_key(|(place, _)| *place);
    Ok(frames.into_iter().map(|(_, frame)| frame).collect())
}
