//! Stage 1 on the labelled demonstrations.

use std::path::Path;

use w2a_align::{AdapterKind, AlignConfig, AlignedEpisode, Diagnostics, FrozenAdapters, diagnose, train_adapters};
use w2a_data::{Episode, Normaliser, Remainder};
use w2a_nn::{Checkpoint, WeightsFile};
use w2a_policy::DemonstrationSet;
use w2a_sim::Scene;
use w2a_world::{Latents, grid_video, load_latents, save_latents};

use crate::context::{Context, depends, model, save_json};
use crate::data::{NARROW, episodes, task_number};
use crate::progress::DEMONSTRATIONS;
use crate::run_world::{self, RunWorld};
use crate::{PipelineError, Request, Stage, world};

pub(crate) const ADAPTERS: &str = "align";

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    let config = context.config.align.clone();
    if !is_done(context, ADAPTERS)? {
        let set = model(DemonstrationSet::new(episodes(context, NARROW)?))?;
        let world = world::load(context)?;
        let windows = demonstrations(context, &world, &set)?;
        train(context, ADAPTERS, &config, &world, &set.action, &windows)?;
    }
    Ok(())
}

/// Whether the adapters in a folder are trained.
pub(crate) fn is_done(context: &Context, name: &str) -> Result<bool, PipelineError> {
    Ok(Checkpoint::new(context.path(name)).step()? >= context.config.align.train.steps)
}

/// The labelled demonstrations, encoded: each at every starting step that stage 1 uses.
pub(crate) fn demonstrations(
    context: &Context,
    world: &RunWorld,
    set: &DemonstrationSet,
) -> Result<Vec<Vec<AlignedEpisode>>, PipelineError> {
    let offsets = if context.config.align.sliding_windows { 0..world.chunk_len() + 1 } else { 0..1 };
    context.progress.part(DEMONSTRATIONS);
    let mut windows = Vec::with_capacity(set.episodes.len());
    for (index, episode) in set.episodes.iter().enumerate() {
        let parts = offsets.clone().map(|offset| part(episode, offset)).collect::<Vec<_>>();
        // What a large model has encoded is kept: it takes longer than the training that wants it.
        let kept = context.path(&format!("latents/demonstrations/{index:06}.safetensors"));
        let latents = if world.is_large() && kept.exists() {
            model(load_latents(&kept))?
        } else {
            let mut latents = Vec::with_capacity(parts.len());
            for part in &parts {
                let video = model(grid_video(part, world.chunk_len(), chunks(context)))?;
                latents.extend(model(world.encode(&[video]))?);
            }
            latents
        };
        if world.is_large() && !kept.exists() {
            context.folder("latents/demonstrations")?;
            model(save_latents(&kept, &latents))?;
        }
        let all =
            parts.into_iter().zip(latents).map(|(part, latents)| aligned(context, world, &set.action, &part, latents));
        windows.push(all.collect::<Result<Vec<_>, _>>()?);
        context.progress.tick(windows.len(), set.episodes.len(), "encoding demonstrations");
    }
    Ok(windows)
}

/// Trains adapters in the folder `name`.
pub(crate) fn train(
    context: &mut Context,
    name: &str,
    config: &AlignConfig,
    world: &RunWorld,
    action: &Normaliser,
    windows: &[Vec<AlignedEpisode>],
) -> Result<(), PipelineError> {
    let (latent, chunk) = shapes(world, action);
    let upstream = depends(&(config, &context.config.data, run_world::upstream(context)?));
    context.training(name, &config.train, upstream, |context, training, steps| {
        let progress = &context.progress;
        model(train_adapters(config, training, latent, chunk, windows, &context.device, |report| {
            steps.step(progress, report);
        }))
    })?;
    let adapters = load(context, name, world, action)?;
    let whole: Vec<&AlignedEpisode> = windows.iter().filter_map(|windows| windows.first()).collect();
    save_json(&context.path(name).join("train_diagnostics.json"), &compare(&adapters, &whole)?)
}

/// Refuses weights to start stage 1 from that cannot be read or belong to the other family, before anything is written:
/// the stage itself begins minutes later. Once it is done the file is no longer needed.
pub(crate) fn check_init(request: &Request) -> Result<(), PipelineError> {
    let config = &request.config.align;
    let done = Checkpoint::new(request.out.join(ADAPTERS)).step()? >= config.train.steps;
    if config.init.is_empty() || request.until < Stage::Align || done {
        return Ok(());
    }
    let file = model(WeightsFile::open(Path::new(&config.init)))?;
    let (family, tensor) = match config.adapter.kind {
        AdapterKind::Mlp => ("mlp", "encoder.layer1.weight"),
        AdapterKind::ActionVae => ("action-vae", "encoder.0.weight"),
    };
    if file.info(tensor).is_none() {
        return Err(PipelineError::Config {
            key: "align.init".into(),
            expected: format!("weights of align.adapter = {family}, such as {tensor}"),
            got: format!("{}, which has no such tensor", config.init),
        });
    }
    Ok(())
}

/// Loads the adapters that a training left in the folder `name`.
pub(crate) fn load(
    context: &Context,
    name: &str,
    world: &RunWorld,
    action: &Normaliser,
) -> Result<FrozenAdapters, PipelineError> {
    let (latent, chunk) = shapes(world, action);
    let config = &context.config.align.adapter;
    model(FrozenAdapters::load(config, latent, chunk, &context.path(name), &context.device))
}

/// Shape of a latent, and steps and width of an action chunk.
fn shapes(world: &RunWorld, action: &Normaliser) -> ([usize; 3], [usize; 2]) {
    let shape = world.latent_shape();
    ([shape.channels, shape.height, shape.width], [world.chunk_len(), action.width()])
}

/// Chunks of a window; with sliding windows one fewer than the whole, so that all offsets have the same length.
fn chunks(context: &Context) -> usize {
    context.config.chunks() - usize::from(context.config.align.sliding_windows)
}

/// A demonstration from control step `offset` on.
fn part(episode: &Episode, offset: usize) -> Episode {
    let mut part = episode.clone();
    for camera in &mut part.cameras {
        camera.rgb.drain(..offset * camera.frame_len());
    }
    part.actions.drain(..offset * part.action_dim);
    part
}

/// A window and its latents as stage 1 takes them.
fn aligned(
    context: &Context,
    world: &RunWorld,
    action: &Normaliser,
    part: &Episode,
    mut latents: Latents,
) -> Result<AlignedEpisode, PipelineError> {
    let chunk_len = world.chunk_len();
    world.statistics().normalise(&mut latents.data);
    let mut actions = part
        .action_chunks(chunk_len, Remainder::HoldLast)
        .map_err(|error| {
            PipelineError::Model(w2a_nn::NnError::Input {
                what: format!("demonstration {:?}", part.source),
                expected: format!("actions in chunks of {chunk_len}"),
                got: error.to_string(),
            })
        })?
        .as_slice()
        .to_vec();
    actions.truncate(chunks(context) * chunk_len * part.action_dim);
    w2a_posttrain::normalise(action, &mut actions)?;
    let task = part.source.parse::<Scene>().map_or(0, |scene| task_number(&scene));
    Ok(AlignedEpisode { task, latents: latents.future().to_vec(), actions })
}

/// How well the adapters align these demonstrations.
fn compare(adapters: &FrozenAdapters, episodes: &[&AlignedEpisode]) -> Result<Diagnostics, PipelineError> {
    let (mut z_v, mut z_a) = (Vec::new(), Vec::new());
    for episode in episodes {
        z_v.extend(model(adapters.video(&episode.latents))?);
        z_a.extend(model(adapters.action(&episode.actions))?);
    }
    let chunks = episodes.first().map_or(0, |episode| episode.actions.len() / adapters.chunk());
    Ok(diagnose(&z_a, &z_v, chunks, adapters.dim()))
}
