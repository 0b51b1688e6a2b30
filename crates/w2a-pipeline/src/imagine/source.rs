//! Where a world model comes from: a run that has trained the embedded one, or a checkpoint of Cosmos-Predict2.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use w2a_nn::Checkpoint;
use w2a_world::cosmos::memory::{SamplingPlan, gib};
use w2a_world::cosmos::{Cosmos, CosmosConfig, Tiling};
use w2a_world::{MiniWorld, ModelId, Rig, WorldModel};

use super::error::ImagineError;
use super::inputs::Episode;
use crate::context::model;
use crate::memory;
use crate::run_world::WorldKind;
use crate::tuning::config_error;
use crate::world::{AUTOENCODER, FLOW};
use crate::{Config, PipelineError, saved_config};

/// Which world model to use.
#[derive(Clone, Debug, PartialEq)]
pub enum WorldSource {
    /// The embedded one of a run's folder.
    Run(PathBuf),
    /// Cosmos-Predict2.
    Cosmos {
        /// The folder of its checkpoint.
        path: PathBuf,
        /// Its settings.
        config: Box<CosmosConfig>,
    },
}

impl From<PathBuf> for WorldSource {
    fn from(run: PathBuf) -> Self {
        Self::Run(run)
    }
}

/// The settings in the folder of a checkpoint of Cosmos-Predict2, or the released model's.
///
/// # Errors
/// A folder or a settings file that cannot be used.
pub fn cosmos_settings(path: &Path) -> Result<CosmosConfig, PipelineError> {
    model(CosmosConfig::of_folder(path))
}

/// An opened world model.
pub(crate) enum Opened {
    Mini(Box<MiniWorld>),
    Cosmos(Box<Cosmos>),
}

impl Opened {
    /// The model as all commands use it.
    pub fn world(&self) -> &dyn WorldModel {
        match self {
            Self::Mini(world) => world.as_ref(),
            Self::Cosmos(world) => world.as_ref(),
        }
    }

    /// Steps in which the progress of a clip is counted.
    pub fn steps_of_clip(&self) -> u64 {
        match self {
            Self::Mini(_) => 1,
            Self::Cosmos(world) => world.evaluations() as u64,
        }
    }

    /// Calls `each` after every such step, if there are several.
    pub fn on_step(&mut self, each: impl Fn() + Send + Sync + 'static) {
        if let Self::Cosmos(world) = self {
            world.on_evaluation(each);
        }
    }

    /// Finds out before hours of work whether every prompt can be used.
    ///
    /// # Errors
    /// A prompt that is not embedded.
    pub fn check_prompts(&self, episodes: &[&Episode], rig: Option<Rig>) -> Result<(), PipelineError> {
        let Self::Cosmos(world) = self else { return Ok(()) };
        let prompts = prompts_of(episodes, rig)?;
        let missing = model(world.missing(prompts.iter().map(String::as_str)))?;
        let Some(first) = missing.first() else { return Ok(()) };
        Err(ImagineError::Prompts { count: missing.len(), first: (*first).to_owned() }.into())
    }

    /// Says what clips of `chunks` chunks take, and refuses what is larger than `budget` bytes, or than the machine's memory
    /// without one. The embedded model fits everywhere.
    ///
    /// # Errors
    /// Clips that do not fit; the message says what would.
    pub fn check_memory(
        &self,
        chunks: usize,
        is_chained: bool,
        budget: Option<u64>,
        announce: &mut dyn FnMut(&str),
    ) -> Result<(), PipelineError> {
        let Self::Cosmos(world) = self else { return Ok(()) };
        let plan = model(world.sampling_plan(chunks, is_chained))?;
        let estimate = plan.estimate();
        let Some(limit) = memory::limit(&estimate, budget, announce).filter(|limit| estimate.total() > *limit) else {
            return Ok(());
        };
        let tiling = Tiling::default();
        let tiled = SamplingPlan { tiles: Some(tiling), ..plan }.estimate().total();
        let [size, stride] = [tiling.size, tiling.stride];
        let advice = match world.config().tiles {
            None if tiled <= limit => {
                format!("--world.tiles='{{size={size:?}, stride={stride:?}}}' takes {}", gib(tiled))
            }
            _ => "fewer --chunks or a smaller --world.frame".into(),
        };
        Err(config_error(
            "memory for imagining",
            format!("at most {}; {advice}", gib(limit)),
            format!("about {estimate}"),
        ))
    }
}

/// The prompts of episodes, as the model is given them, each once; those of an episode that cannot be read are left out.
///
/// # Errors
/// None of its own.
pub(crate) fn prompts_of(episodes: &[&Episode], rig: Option<Rig>) -> Result<Vec<String>, PipelineError> {
    let mut all = Vec::new();
    for episode in episodes {
        // What is wrong with the others is said when their turn comes.
        for prompt in episode.read_prompts().unwrap_or_default() {
            let prompt = rig.map_or_else(|| prompt.clone(), |rig| rig.prompt(&prompt));
            if !all.contains(&prompt) {
                all.push(prompt);
            }
        }
    }
    Ok(all)
}

/// Opens a world model and says which one it is. Nothing is hashed before everything needed is found.
///
/// # Errors
/// A folder that holds no run or no checkpoint, or a world model that is not trained yet.
pub(crate) fn opened(source: &WorldSource) -> Result<(Opened, ModelId), PipelineError> {
    match source {
        WorldSource::Run(run) => {
            let (world, id) = trained(run)?;
            Ok((Opened::Mini(Box::new(world)), id))
        }
        WorldSource::Cosmos { path, config } => {
            let world = model(Cosmos::open(path, config.as_ref().clone(), &Device::flex()))?;
            let id = model(world.identify())?;
            Ok((Opened::Cosmos(Box::new(world)), id))
        }
    }
}

/// The world model of a run, and which one it is.
///
/// # Errors
/// A folder that holds no run, or one whose world model is not trained yet.
fn trained(run: &Path) -> Result<(MiniWorld, ModelId), PipelineError> {
    let missing = |reason: String| ImagineError::World { path: run.to_owned(), reason };
    let text = saved_config(run)?.ok_or_else(|| missing("it has no config.toml".into()))?;
    let config: Config =
        toml::from_str(&text).map_err(|error| missing(format!("its config.toml: {}", error.message())))?;
    config.validate()?;
    if config.world.kind == WorldKind::Cosmos {
        let path = &config.world.path;
        return Err(missing(format!("it works with Cosmos-Predict2: --world.kind=cosmos --world.path={path}")).into());
    }
    for (name, steps) in [(AUTOENCODER, config.world.autoencoder_train.steps), (FLOW, config.world.flow_train.steps)] {
        let done = Checkpoint::new(run.join(name)).step()?;
        if done < steps {
            return Err(missing(format!("{name} is at step {done} of {steps}")).into());
        }
    }
    // A pool that exists already was sized by an earlier call in this process, as in tests: its size stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    let (sizes, dirs) = (&config.world.model, [run.join(AUTOENCODER), run.join(FLOW)]);
    let id = model(MiniWorld::identify(sizes, &dirs[0], &dirs[1]))?;
    Ok((model(MiniWorld::load(sizes, config.grid(), &dirs[0], &dirs[1], &Device::flex()))?, id))
}
