//! The embedded benchmark from end to end: demonstrations, world model, policy, stages 1 and 2, baselines, evaluation,
//! report. Each stage writes what the next one reads into the run's folder, so a run that was killed continues where it
//! was.

mod ablation;
mod ablation_page;
mod align;
mod arms;
mod clips;
mod config;
mod context;
mod corpus;
mod data;
mod data_tools;
mod demonstrations;
mod environment;
mod error;
mod eval;
mod evaluate;
mod finetune;
mod groot;
mod groot_data;
mod horizon;
mod imagine;
mod learn;
mod memory;
mod open_loop;
mod parity;
mod policy;
mod posttrain;
mod progress;
mod report;
mod run_world;
mod serve;
mod stage2;
mod tuning;
mod validate;
mod weights;
mod world;
mod world_finetune;

use std::path::{Path, PathBuf};

pub use config::{
    AlignSection, Config, DataSection, EvalSection, GrootSection, PolicySection, PosttrainSection, Profile, Stage,
    WorldSection,
};
pub use data_tools::{DataReport, convert_data, inspect_data};
pub use environment::{EnvKind, EnvSection, LiberoSection};
pub use error::PipelineError;
pub use evaluate::{EvaluateRequest, evaluate};
pub use finetune::{FinetuneRequest, finetune};
pub use groot::{PolicyInfoRequest, policy_info, write_tiny_policy};
pub use imagine::{
    EmbedRequest, ImagineError, ImagineRequest, Imagined, PreviewRequest, ScenesRequest, Shard, WorldSource,
    cosmos_settings, embed_prompts, export_scenes, imagine, preview,
};
pub use learn::{LearnRequest, Tell};
pub use open_loop::{Errors as OpenLoopErrors, OpenLoopRequest, open_loop};
pub use parity::{Parity, parity};
pub use run_world::WorldKind;
pub use serve::{CheckpointOptions, Habits, PolicySource, ServeRequest, serve, start_serving};
pub use tuning::Method;
pub use w2a_nn::DEVICES;
pub use w2a_posttrain::LoraConfig;
pub use w2a_serve::simulator::{EvalProtocol, Flip, Gripper, SimulatorKind};
pub use w2a_serve::{Layout, Protocol};
pub use w2a_sim::Scene;
pub use w2a_world::cosmos::{Activations, Compute as CosmosCompute, CosmosConfig, FlowLoss, LossWeight};
pub use w2a_world::{Layout as CameraLayout, Rig};
pub use weights::{convert_weights, list_weights};
pub use world_finetune::{WorldFinetuneRequest, world_finetune, write_tiny_world};

/// How [`convert_data`] converts, and the versions it can write.
pub use w2a_data::video::Encoding;
pub use w2a_data::{ConvertOptions, Version as DatasetVersion};

use context::Context;

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// The configuration.
    pub config: Config,
    /// Folder of the run.
    pub out: PathBuf,
    /// Whether to continue an existing run.
    pub resume: bool,
    /// The last stage to run; those before it run first where they are not done.
    pub until: Stage,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// A few lines for the terminal.
    pub summary: String,
    /// The page, if that stage ran: the report, or that of the ablation.
    pub report: Option<PathBuf>,
}

/// Runs every stage up to `request.until` that is not done yet.
///
/// # Errors
/// An invalid configuration, an existing run without `resume`, a changed configuration with it, bad data, a training that
/// diverges, a full disk. What earlier stages computed stays.
pub fn run(request: &Request) -> Result<Outcome, PipelineError> {
    request.config.validate()?;
    if request.until == Stage::Ablation {
        ablation::check(&request.config)?;
    }
    align::check_init(request)?;
    let mut context = Context::open(request)?;
    let mut report = None;
    for stage in request.until.plan() {
        context.begin(stage)?;
        match stage {
            Stage::Data => data::run(&mut context)?,
            Stage::World => world::run(&mut context)?,
            Stage::Policy => policy::run(&mut context, request.until != Stage::Ablation)?,
            Stage::Align => align::run(&mut context)?,
            Stage::Posttrain => posttrain::run(&mut context)?,
            Stage::Eval => eval::run(&mut context)?,
            Stage::Report => report = Some(report::run(&mut context)?),
            Stage::Ablation => report = Some(ablation::run(&mut context)?),
        }
        context.end(stage)?;
    }
    let summary =
        if request.until == Stage::Ablation { ablation_page::summary(&context)? } else { report::summary(&context)? };
    Ok(Outcome { summary, report })
}

/// The configuration an existing run was started with, as TOML; `None` if there is no run in `out`.
///
/// # Errors
/// If the file cannot be read.
pub fn saved_config(out: &Path) -> Result<Option<String>, PipelineError> {
    let path = out.join("config.toml");
    if !path.exists() {
        return Ok(None);
    }
    fs_err::read_to_string(path)
        .map(Some)
        .map_err(|source| PipelineError::io("reading the run's configuration", source))
}
