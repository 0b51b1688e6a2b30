//! The world model: autoencoder, latents of the videos, latent video model, imagination of the post-training scenes.

use std::path::Path;

use burn::tensor::Device;
use w2a_data::Dataset;
use w2a_nn::{Checkpoint, Init};
use w2a_sim::{Environment, Range, Scene, Split, Tabletop};
use w2a_world::{
    FlowSample, GridVideo, LatentStatistics, Latents, Layout, MiniWorld, VideoAutoencoder, WorldModel, encode_videos,
    grid_video, load_frames, load_latents, save_frames, save_latents, save_statistics, train_autoencoder, train_flow,
};

use crate::context::{Context, depends, model};
use crate::data::{NARROW, ORACLE, VIDEO, scenes};
use crate::progress::{CORPUS, IMAGINED_POSTTRAIN, IMAGINED_TUNE};
use crate::{Config, PipelineError};

pub(crate) const AUTOENCODER: &str = "world/autoencoder";
pub(crate) const FLOW: &str = "world/flow";

/// Rows and columns of the grid image: both cameras side by side.
pub(crate) const GRID: (usize, usize) = (w2a_sim::IMAGE_SIZE, 2 * w2a_sim::IMAGE_SIZE);

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    let config = context.config.world.clone();
    let autoencoder = autoencoder(context)?;
    let (latents, first) = corpus(context, &autoencoder)?;
    let statistics = LatentStatistics::of(&latents, 0.5);
    let shape = model(autoencoder.latent_shape(GRID.0, GRID.1, config.model.autoencoder.channels))?;
    context.folder(FLOW)?;
    model(save_statistics(&context.path(FLOW).join("statistics.safetensors"), &statistics, shape))?;
    let instructions = corpus_instructions(context)?;
    let normalised: Vec<Vec<f32>> = latents
        .into_iter()
        .map(|mut latents| {
            statistics.normalise(&mut latents.data);
            latents.data
        })
        .collect();
    let samples: Vec<FlowSample> = normalised
        .iter()
        .zip(&instructions)
        .zip(&first)
        .map(|((latents, instruction), first)| FlowSample { first, latents, instruction })
        .collect();
    let upstream = (&config.model, &context.config.data, &config.autoencoder_train, config.autoencoder_videos);
    let upstream = depends(&upstream);
    context.training(FLOW, &config.flow_train, upstream, |context, training, steps| {
        let (device, progress) = (context.device.clone(), &context.progress);
        model(train_flow(&config.model.flow, training, shape, &samples, &device, |report| steps.step(progress, report)))
    })?;
    drop(normalised);
    imagine_all(context)
}

/// Loads the trained world model.
pub(crate) fn load(context: &Context) -> Result<MiniWorld, PipelineError> {
    open(&context.config, &context.out, &context.device)
}

/// Loads the world model that was trained with `config` in the folder `run`.
pub(crate) fn open(config: &Config, run: &Path, device: &Device) -> Result<MiniWorld, PipelineError> {
    model(MiniWorld::load(&config.world.model, GRID, &run.join(AUTOENCODER), &run.join(FLOW), device))
}

/// Post-training scenes, all tasks.
pub(crate) fn posttrain_scenes(config: &Config) -> Result<Vec<Scene>, PipelineError> {
    scenes(config, Split::Posttrain, Range::Full, 0, config.data.posttrain_scenes)
}

/// Scenes on which gains are chosen, all tasks.
pub(crate) fn tune_scenes(config: &Config) -> Result<Vec<Scene>, PipelineError> {
    scenes(config, Split::Tune, Range::Full, 0, config.data.tune_scenes)
}

/// Imagined latents of the post-training and the tuning scenes, and latents of real expert video of the former.
pub(crate) fn imagined(context: &Context, which: &str) -> Result<Vec<Latents>, PipelineError> {
    model(load_latents(&context.path(&format!("latents/{which}.safetensors"))))
}

fn autoencoder(context: &mut Context) -> Result<VideoAutoencoder, PipelineError> {
    let config = context.config.world.clone();
    let (frames, chunks) = (config.model.autoencoder.frames, config.model.flow.chunks);
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

/// Latents and first frames of the videos and of the labelled demonstrations' videos, cached: the corpus of the latent
/// video model.
fn corpus(context: &Context, autoencoder: &VideoAutoencoder) -> Result<(Vec<Latents>, Vec<GridVideo>), PipelineError> {
    use burn::module::Module;
    let config = &context.config.world.model;
    let path = context.path("latents/corpus.safetensors");
    let frames_path = context.path("latents/corpus_first_frames.safetensors");
    if path.exists() && frames_path.exists() {
        return Ok((model(load_latents(&path))?, model(load_frames(&frames_path))?));
    }
    context.folder("latents")?;
    context.progress.part(CORPUS);
    let autoencoder = autoencoder.valid();
    let shape = model(autoencoder.latent_shape(GRID.0, GRID.1, config.autoencoder.channels))?;
    let datasets = [Dataset::open(context.path(VIDEO))?, Dataset::open(context.path(NARROW))?];
    let total = datasets.iter().map(Dataset::len).sum();
    let (mut out, mut first) = (Vec::with_capacity(total), Vec::with_capacity(total));
    for dataset in datasets {
        for episode in dataset.episodes() {
            let video = model(grid_video(&episode?, config.autoencoder.frames, config.flow.chunks))?;
            let frames = config.autoencoder.frames;
            first.push(GridVideo { rgb: video.frame(0).to_vec(), ..video });
            out.extend(model(encode_videos(&autoencoder, &[video], frames, shape, &context.device))?);
            context.progress.tick(out.len(), total, "encoding videos");
        }
    }
    model(save_frames(&frames_path, &first))?;
    model(save_latents(&path, &out))?;
    Ok((out, first))
}

fn corpus_instructions(context: &Context) -> Result<Vec<String>, PipelineError> {
    let mut out = Vec::new();
    for name in [VIDEO, NARROW] {
        let dataset = Dataset::open(context.path(name))?;
        out.extend(dataset.records().iter().map(|record| record.instruction.clone()));
    }
    Ok(out)
}

fn imagine_all(context: &mut Context) -> Result<(), PipelineError> {
    let world = load(context)?;
    let chunks = context.config.world.model.flow.chunks;
    for (which, part, scenes) in [
        ("posttrain", IMAGINED_POSTTRAIN, posttrain_scenes(&context.config)?),
        ("tune", IMAGINED_TUNE, tune_scenes(&context.config)?),
    ] {
        let path = context.path(&format!("latents/imagined_{which}.safetensors"));
        if path.exists() {
            continue;
        }
        context.progress.part(part);
        let mut out = Vec::with_capacity(scenes.len());
        for (part_index, part) in scenes.chunks(32).enumerate() {
            let first = first_frames(context.config.threads, part)?;
            let words: Vec<&str> = part.iter().map(|scene| scene.task_info().instruction).collect();
            let mut rng = w2a_data::stream(context.config.seed, &format!("imagine/{which}/{part_index}"));
            out.extend(model(world.imagine(&first, &words, chunks, &mut rng))?);
            context.progress.tick(out.len(), scenes.len(), &format!("imagining {which} scenes"));
        }
        model(save_latents(&path, &out))?;
    }
    let path = context.path("latents/expert_posttrain.safetensors");
    if !path.exists() {
        let mut out = Vec::new();
        for episode in Dataset::open(context.path(ORACLE))?.episodes() {
            let video = model(grid_video(&episode?, world.chunk_len(), chunks))?;
            out.extend(model(world.encode(&[video]))?);
        }
        model(save_latents(&path, &out))?;
    }
    Ok(())
}

/// The first grid image of each scene.
pub(crate) fn first_frames(threads: usize, scenes: &[Scene]) -> Result<Vec<GridVideo>, PipelineError> {
    let mut environment = Tabletop::new(threads);
    let observations = environment.reset(scenes)?;
    observations.iter().map(|observation| model(Layout::SideBySide.compose(&observation.cameras))).collect()
}
