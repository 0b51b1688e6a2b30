//! The subcommands of `world`: settings put together, then one library call each.

use std::io::Write;

use serde::{Deserialize, Serialize};
use w2a_pipeline::{
    CosmosConfig, EmbedRequest, FlowLoss, ImagineRequest, LoraConfig, Method, PreviewRequest, WorldFinetuneRequest,
    WorldSource,
};

use crate::args::{Override, Tuned, WorldAction, WorldChoice, WorldFinetuneArgs, bytes};
use crate::failure::Failure;
use crate::settings::{Layer, merge};

/// The root of the settings: all lie below `[world]`, as the flags say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    world: CosmosConfig,
}

/// Does what was asked and gives what is to be printed.
///
/// # Errors
/// Settings that cannot be put together, and those of the library.
pub fn execute(action: &WorldAction) -> Result<String, Failure> {
    match action {
        WorldAction::Imagine(args, world) => {
            let request = ImagineRequest {
                input: args.input.clone(),
                world: source(world)?,
                out: args.out.clone(),
                cache: args.cache.clone(),
                chunks: args.chunks.map(usize::from),
                rig: args.views,
                shard: args.shard,
                seed: args.seed,
                skip_bad: args.skip_bad,
                memory: args.memory.map(bytes),
            };
            Ok(w2a_pipeline::imagine(&request, &mut say)?.summary())
        }
        WorldAction::Preview(args, world) => Ok(w2a_pipeline::preview(&PreviewRequest {
            latents: args.latents.clone(),
            world: source(world)?,
            out: args.out.clone(),
            count: usize::from(args.count),
        })?),
        WorldAction::EmbedPrompts(args, path, overrides) => {
            let (input, config) = (args.input.clone(), cosmos(path, overrides)?);
            Ok(w2a_pipeline::embed_prompts(&EmbedRequest { input, path: path.clone(), config, rig: args.views })?)
        }
        WorldAction::Finetune(args, path, overrides) => {
            let request = finetune(args, path, cosmos(path, overrides)?);
            Ok(w2a_pipeline::world_finetune(&request, &mut say)?)
        }
        WorldAction::Tiny { dir, seed } => Ok(w2a_pipeline::write_tiny_world(dir, *seed)?),
        WorldAction::Scenes(request) => {
            Ok(format!("{} scenes: {}\n", w2a_pipeline::export_scenes(request)?, request.out.display()))
        }
    }
}

/// Shows a line before hours of work.
fn say(line: &str) {
    // A terminal that is gone is no reason not to begin.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The request of `world finetune`.
fn finetune(args: &WorldFinetuneArgs, path: &std::path::Path, config: CosmosConfig) -> WorldFinetuneRequest {
    WorldFinetuneRequest {
        path: path.to_owned(),
        loss: FlowLoss {
            weight: args.loss_weight,
            prompt_dropout: args.prompt_dropout,
            sigma_conditional: config.sampler.sigma_conditional,
            ..FlowLoss::default()
        },
        config,
        data: args.data.clone(),
        layout: args.layout,
        rig: args.views,
        out: args.out.clone(),
        cache: args.cache.clone(),
        resume: args.resume,
        method: match args.method {
            Tuned::Full => Method::Full,
            Tuned::Lora => Method::Lora(LoraConfig { rank: usize::from(args.rank), alpha: args.alpha }),
        },
        activations: args.activations,
        steps: args.steps,
        batch: args.batch,
        lr: args.lr.unwrap_or(2.0_f32.powf(-14.5)),
        warmup: args.warmup.unwrap_or((args.steps / 10).min(1000)),
        ema: args.ema,
        sample_every: args.sample_every,
        samples: usize::from(args.samples),
        is_half: args.bf16,
        memory: args.memory.map(bytes),
        seed: args.seed,
        device: args.device.clone(),
    }
}

/// The world model of a choice, with its settings.
fn source(choice: &WorldChoice) -> Result<WorldSource, Failure> {
    Ok(match choice {
        WorldChoice::Run(run) => WorldSource::Run(run.clone()),
        WorldChoice::Cosmos { path, overrides } => {
            WorldSource::Cosmos { path: path.clone(), config: Box::new(cosmos(path, overrides)?) }
        }
    })
}

/// The settings of a checkpoint: those in its folder, or the released model's, then the flags'.
fn cosmos(path: &std::path::Path, overrides: &[Override]) -> Result<CosmosConfig, Failure> {
    let mut layers = vec![Layer::defaults(&Root { world: w2a_pipeline::cosmos_settings(path)? })?];
    layers.extend(overrides.iter().map(|flag| Layer::flag(&flag.key, flag.value.clone(), &flag.flag)));
    let Root { world } = merge(&layers)?;
    Ok(world)
}
