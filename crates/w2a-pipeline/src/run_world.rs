//! The world model that the stages of a run work with: the embedded one that the run has trained, or a checkpoint of
//! Cosmos-Predict2.

use std::ops::Deref;
use std::path::Path;

use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;
use w2a_world::cosmos::{Cosmos, CosmosConfig};
use w2a_world::{
    Anchor, Framed, Framing, GridVideo, LatentStatistics, Latents, MiniWorld, MiniWorldConfig, ModelId, Skill,
    WorldModel, imagine_chain,
};

use crate::context::{Context, depends, load_json, model, save_json};
use crate::world::{AUTOENCODER, CAMERAS, FLOW};
use crate::{Config, PipelineError};

/// Which checkpoint a run works with, in its folder.
pub(crate) const MODEL: &str = "world/model.json";

/// The world models of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    /// The embedded one, which the run trains.
    #[default]
    Mini,
    /// A checkpoint of Cosmos-Predict2, frozen.
    Cosmos,
}

/// A world model of a run, ready to use.
pub(crate) enum RunWorld {
    Mini(Box<MiniWorld>),
    Cosmos { world: Box<Framed<Cosmos>>, statistics: LatentStatistics },
}

impl RunWorld {
    /// The one of a run in `out`; an embedded one has its latent video model in the folder `flow` of the run.
    pub fn load(config: &Config, out: &Path, flow: &str, device: &Device) -> Result<Self, PipelineError> {
        if config.world.kind == WorldKind::Mini {
            let world =
                MiniWorld::load(&config.world.model, config.grid(), &out.join(AUTOENCODER), &out.join(flow), device)?;
            return Ok(Self::Mini(Box::new(world)));
        }
        let world = framed(config, device)?;
        // The autoencoder's latents are normalised as they are.
        let values = world.latent_shape().len();
        let statistics = LatentStatistics { mean: vec![0.0; values], std: vec![1.0; values] };
        Ok(Self::Cosmos { world: Box::new(world), statistics })
    }

    /// What latents are normalised with before anything is trained on them or compared.
    pub fn statistics(&self) -> &LatentStatistics {
        match self {
            Self::Mini(world) => world.statistics(),
            Self::Cosmos { statistics, .. } => statistics,
        }
    }

    /// Whether a single clip takes minutes or hours.
    pub fn is_large(&self) -> bool {
        matches!(self, Self::Cosmos { .. })
    }

    /// As [`imagine_chain`], in the model's own pictures.
    pub fn chain(&self, first: &GridVideo, skills: &[Skill], rng: &mut ChaCha8Rng) -> Result<Latents, NnError> {
        match self {
            Self::Mini(world) => imagine_chain(world.as_ref(), first, skills, rng),
            Self::Cosmos { world, .. } => world.imagine_chain(first, skills, rng),
        }
    }

    /// Refuses instructions that the model cannot be told, before hours of work.
    pub fn check_instructions<'a>(&self, instructions: impl Iterator<Item = &'a str>) -> Result<(), PipelineError> {
        let Self::Cosmos { world, .. } = self else { return Ok(()) };
        let prompts: Vec<String> = instructions.map(|instruction| world.prompt(instruction)).collect();
        let missing = model(world.inner().missing(prompts.iter().map(String::as_str)))?;
        let Some(first) = missing.first() else { return Ok(()) };
        Err(PipelineError::Config {
            key: "world.path".into(),
            expected: format!(
                "a folder with every prompt embedded in {}: write the instructions to a file, one a line, and run `world2act \
                 world embed-prompts FILE` with this --world.path and world.views as --views",
                world.inner().prompts().dir().display()
            ),
            got: format!("{} that are not, the first: {first}", missing.len()),
        })
    }
}

impl Deref for RunWorld {
    type Target = dyn WorldModel;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Mini(world) => world.as_ref(),
            Self::Cosmos { world, .. } => world.as_ref(),
        }
    }
}

/// The checkpoint of Cosmos-Predict2 behind the pictures of the run.
fn framed(config: &Config, device: &Device) -> Result<Framed<Cosmos>, PipelineError> {
    let world = &config.world;
    let path = Path::new(&world.path);
    let cosmos = model(Cosmos::open(path, model(CosmosConfig::of_folder(path))?, device))?;
    model(Framed::new(
        cosmos,
        Framing { layout: world.layout, rig: world.rig(), size: config.grid(), cameras: CAMERAS },
    ))
}

/// Name and digest of the world model of the run in `out`.
pub(crate) fn identify(config: &Config, out: &Path) -> Result<ModelId, PipelineError> {
    model(match config.world.kind {
        WorldKind::Mini => MiniWorld::identify(&config.world.model, &out.join(AUTOENCODER), &out.join(FLOW)),
        WorldKind::Cosmos => framed(config, &Device::flex())?.inner().identify(),
    })
}

/// Writes down which checkpoint the run works with, or finds that it is still that one.
pub(crate) fn settle(context: &Context) -> Result<(), PipelineError> {
    let path = context.path(MODEL);
    let found = identify(&context.config, &context.out)?;
    if !path.exists() {
        context.folder("world")?;
        return save_json(&path, &found);
    }
    if load_json::<ModelId>(&path, "world")? == found {
        return Ok(());
    }
    let difference = "the checkpoint in world.path, or its settings, are no longer those it began with".into();
    Err(PipelineError::Changed { path: context.out.clone(), difference })
}

/// The sizes of the embedded model as trainings depend on them. In this form, so that what was trained before there were
/// anchors is still known.
pub(crate) fn sizes(model: &MiniWorldConfig) -> serde_json::Value {
    let mut value = depends(model);
    if model.flow.anchor == Anchor::First
        && let Some(flow) = value.get_mut("flow").and_then(serde_json::Value::as_object_mut)
    {
        flow.remove("anchor");
    }
    value
}

/// What trainings on latents of the run's world model depend on.
pub(crate) fn upstream(context: &Context) -> Result<serde_json::Value, PipelineError> {
    let world = &context.config.world;
    let mut value = depends(world);
    if let Some(entries) = value.as_object_mut() {
        // In this form, so that what was trained before there was another world model is still known.
        ["kind", "path", "layout", "views"].into_iter().for_each(|key| drop(entries.remove(key)));
        entries.insert("model".into(), sizes(&world.model));
    }
    if world.kind == WorldKind::Mini {
        return Ok(value);
    }
    let known: ModelId = load_json(&context.path(MODEL), "world")?;
    Ok(depends(&(known, world.layout, &world.views)))
}
