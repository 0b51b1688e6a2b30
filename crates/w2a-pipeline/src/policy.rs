//! The base policy on narrow labels, and the ceiling on wide labels.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Tensor;
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Checkpoint, Init, Linear, NnError};
use w2a_policy::groot::{Groot, GrootOptions};
use w2a_policy::{AdaptablePolicy, DemonstrationSet, MiniPolicy, Policy, PolicyNet, SlowPolicy, Strided, train_policy};
use w2a_serve::{Layout, Part, Patience, RemotePolicy, ServeError};
use w2a_sim::ACTION_NAMES;
use w2a_world::ModelId;

use crate::arms::Arm;
use crate::context::{Context, depends, load_json, model, save_json};
use crate::data::{NARROW, WIDE, episodes};
use crate::{Config, GrootSection, PipelineError};

pub(crate) const BASE: &str = "policy/base";
pub(crate) const CEILING: &str = "policy/base_wide_labels";

/// Trains the base policy and, if asked for, the ceiling.
pub(crate) fn run(context: &mut Context, with_ceiling: bool) -> Result<(), PipelineError> {
    settle(context)?;
    for (name, dataset) in [(BASE, NARROW), (CEILING, WIDE)] {
        if name == CEILING && !with_ceiling {
            continue;
        }
        let config = context.config.policy.clone();
        let takes_part = is_trained(&context.config, name);
        if !takes_part || Checkpoint::new(context.path(name)).step()? >= config.train.steps {
            continue;
        }
        // Every arm acts through the statistics of the narrow labels, so the ceiling is trained with them too.
        let mut set = demonstrations(context)?;
        if dataset != NARROW {
            // Freed first: two sets of images at once are the largest thing in a run's memory.
            set.episodes.clear();
            set.episodes = episodes(context, dataset)?;
        }
        let upstream = depends(&(&config.model, &context.config.data));
        context.training(name, &config.train, upstream, |context, training, steps| {
            let progress = &context.progress;
            model(train_policy(&config.model, training, &set, None, &context.device, |report| {
                steps.step(progress, report)
            }))
        })?;
    }
    Ok(())
}

/// The labelled demonstrations, whose statistics normalise what every policy sees and does.
pub(crate) fn demonstrations(context: &Context) -> Result<DemonstrationSet, PipelineError> {
    model(DemonstrationSet::new(episodes(context, NARROW)?))
}

/// The network that a training left under `name`, without gradients.
pub(crate) fn net(context: &Context, name: &str, set: &DemonstrationSet) -> Result<PolicyNet, PipelineError> {
    let mut rng = w2a_data::stream(0, "load");
    let init = &mut Init { rng: &mut rng, device: &context.device };
    let first = &set.episodes[0];
    let config = &context.config.policy.model;
    let net = PolicyNet::new(config, first.cameras.len(), first.proprio_dim, first.action_dim, init);
    Ok(model(Checkpoint::new(context.path(name)).load(net))?.valid())
}

/// Whether a run trains this policy: not the base if that is somebody else's.
pub(crate) fn is_trained(config: &Config, name: &str) -> bool {
    if name == BASE { !config.policy.is_foreign() } else { Arm::WideLabels.takes_part(config) }
}

/// A policy that nothing is trained in any more: one in this process, or a server's.
pub(crate) enum Base {
    Here(Adaptable),
    Remote(Box<Strided<RemotePolicy>>),
}

impl Base {
    /// A frozen policy around a network.
    pub fn mini(context: &Context, net: PolicyNet, set: &DemonstrationSet) -> Self {
        let policy = MiniPolicy::new(net, set.proprio.clone(), set.action.clone(), &context.device);
        Self::Here(Adaptable::Mini(Box::new(policy)))
    }
}

impl Policy for Base {
    fn horizon(&self) -> usize {
        match self {
            Self::Here(policy) => policy.horizon(),
            Self::Remote(policy) => policy.horizon(),
        }
    }

    fn action_dim(&self) -> usize {
        match self {
            Self::Here(policy) => policy.action_dim(),
            Self::Remote(policy) => policy.action_dim(),
        }
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        match self {
            Self::Here(policy) => policy.act(observations, instructions),
            Self::Remote(policy) => policy.act(observations, instructions),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Here(policy) => policy.reset(),
            Self::Remote(policy) => policy.reset(),
        }
    }
}

/// A base policy whose weights are at hand: the embedded one, or a checkpoint of GR00T.
#[derive(Clone)]
pub(crate) enum Adaptable {
    Mini(Box<MiniPolicy>),
    Groot(Box<Strided<Groot>>),
}

impl Policy for Adaptable {
    fn horizon(&self) -> usize {
        match self {
            Self::Mini(policy) => policy.horizon(),
            Self::Groot(policy) => policy.horizon(),
        }
    }

    fn action_dim(&self) -> usize {
        match self {
            Self::Mini(policy) => policy.action_dim(),
            Self::Groot(policy) => policy.action_dim(),
        }
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        match self {
            Self::Mini(policy) => policy.act(observations, instructions),
            Self::Groot(policy) => policy.act(observations, instructions),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Mini(policy) => policy.reset(),
            Self::Groot(policy) => policy.reset(),
        }
    }
}

impl AdaptablePolicy for Adaptable {
    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        match self {
            Self::Mini(policy) => policy.linear_layers(),
            Self::Groot(policy) => policy.linear_layers(),
        }
    }

    fn forward(&self, observations: &[Observation], instructions: &[&str]) -> Result<Tensor<2>, NnError> {
        match self {
            Self::Mini(policy) => policy.forward(observations, instructions),
            Self::Groot(policy) => policy.forward(observations, instructions),
        }
    }

    fn action_normaliser(&self) -> Option<&Normaliser> {
        match self {
            Self::Mini(policy) => policy.action_normaliser(),
            Self::Groot(policy) => policy.action_normaliser(),
        }
    }
}

/// The frozen base policy of a run, slowed down as the configuration says.
pub(crate) fn base(context: &Context, set: &DemonstrationSet) -> Result<SlowPolicy<Base>, PipelineError> {
    let config = &context.config.policy;
    let base = if !config.remote.is_empty() {
        let token = token(&config.remote_token_env, "policy.remote_token_env")?;
        let url = config.remote.parse()?;
        let remote = RemotePolicy::connect(url, context.config.layout(), token, Patience::default())?;
        Base::Remote(Box::new(model(Strided::new(remote, context.config.stride()))?))
    } else if config.is_groot() {
        Base::Here(Adaptable::Groot(Box::new(groot(context)?)))
    } else {
        Base::mini(context, net(context, BASE, set)?, set)
    };
    let chunk = context.config.chunk_len();
    if base.horizon() < chunk {
        return Err(PipelineError::Config {
            key: "policy".into(),
            expected: format!("a policy whose chunks have at least {chunk} actions, as many as the world model's"),
            got: base.horizon().to_string(),
        });
    }
    Ok(at_pace(context, base))
}

/// Which checkpoint of GR00T a run works with, in its folder.
pub(crate) const CHECKPOINT: &str = "policy/groot.json";

/// The checkpoint of GR00T, with its adapter, as a policy of the run's simulator.
pub(crate) fn groot(context: &Context) -> Result<Strided<Groot>, PipelineError> {
    let config = &context.config;
    let GrootSection { path, embodiment, backbone, adapter } = &config.policy.groot;
    let given = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut options = GrootOptions::new(&context.device);
    (options.backbone, options.seed) = (given(backbone), config.seed);
    let groot = crate::groot_data::load(Path::new(path), embodiment, &options, given(adapter).as_deref())?;
    let (theirs, ours) = (Layout::of_groot(&groot)?, config.layout());
    let cameras = |layout: &Layout| layout.cameras.iter().map(|camera| camera.name.clone()).collect::<Vec<_>>();
    let parts = |parts: &[Part]| parts.iter().map(|part| format!("{}[{}]", part.name, part.width)).collect::<Vec<_>>();
    for (what, theirs, ours) in [
        ("cameras", cameras(&theirs), cameras(&ours)),
        ("state", parts(&theirs.state), parts(&ours.state)),
        ("action", parts(&theirs.action), parts(&ours.action)),
    ] {
        if theirs != ours {
            return Err(PipelineError::Config {
                key: "policy.groot.embodiment".into(),
                expected: format!("one with the {what} of env.kind = {}: {}", config.layout().name, ours.join(", ")),
                got: format!("{embodiment} with {}", theirs.join(", ")),
            });
        }
    }
    model(Strided::adaptable(groot, config.stride()))
}

/// Writes down which checkpoint of GR00T the run works with, if it does, or finds that it is still that one.
fn settle(context: &Context) -> Result<(), PipelineError> {
    if !context.config.policy.is_groot() {
        return Ok(());
    }
    // Loaded once before anything is trained: what does not fit is better known now.
    groot(context)?;
    let GrootSection { path, embodiment, backbone, adapter } = &context.config.policy.groot;
    let mut files = Vec::new();
    for folder in [path, backbone, adapter].into_iter().filter(|folder| !folder.is_empty()) {
        files_below(Path::new(folder), &mut files)
            .map_err(|error| PipelineError::io("looking through a checkpoint", error))?;
    }
    let found = model(ModelId::of_files("groot", embodiment, &files))?;
    let record = context.path(CHECKPOINT);
    if !record.exists() {
        context.folder("policy")?;
        return save_json(&record, &found);
    }
    if load_json::<ModelId>(&record, "policy")? == found {
        return Ok(());
    }
    let difference = "the checkpoint in policy.groot is no longer the one it began with".into();
    Err(PipelineError::Changed { path: context.out.clone(), difference })
}

/// All files in a folder and the folders in it, by name.
fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs_err::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() { files_below(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// What trainings on the base policy's actions depend on, if that is somebody else's.
pub(crate) fn foreign(context: &Context) -> Result<Option<serde_json::Value>, PipelineError> {
    let policy = &context.config.policy;
    if policy.is_groot() {
        return Ok(Some(depends(&load_json::<ModelId>(&context.path(CHECKPOINT), "policy")?)));
    }
    Ok(policy.is_foreign().then(|| depends(&policy.remote)))
}

/// A policy slowed down as the configuration says: whatever acts, acts at this pace.
pub(crate) fn at_pace<P>(context: &Context, policy: P) -> SlowPolicy<P> {
    // The gripper is told where to be, not how far to move.
    let levels = (0..ACTION_NAMES.len()).filter(|&entry| ACTION_NAMES[entry] == "gripper").collect();
    SlowPolicy { policy, slowdown: context.config.policy.slowdown, levels }
}

/// The token in an environment variable; none if `name` is empty. `key` is what gave the name.
pub(crate) fn token(name: &str, key: &str) -> Result<Option<String>, PipelineError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = std::env::var(name).ok().filter(|token| !token.is_empty());
    found.map(Some).ok_or_else(|| PipelineError::Config {
        key: key.into(),
        expected: "an environment variable with a token in it".into(),
        got: format!("{name:?}, which is not set, empty or no text"),
    })
}

impl From<ServeError> for PipelineError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}
