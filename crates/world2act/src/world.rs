//! The subcommands of `world`: settings put together, then one library call each.

use serde::{Deserialize, Serialize};
use w2a_pipeline::{CosmosConfig, EmbedRequest, ImagineRequest, PreviewRequest, WorldSource};

use crate::args::{Override, WorldAction, WorldChoice};
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
            };
            Ok(w2a_pipeline::imagine(&request)?.summary())
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
        WorldAction::Scenes(request) => {
            Ok(format!("{} scenes: {}\n", w2a_pipeline::export_scenes(request)?, request.out.display()))
        }
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
