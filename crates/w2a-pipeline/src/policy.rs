//! The base policy on narrow labels, and the ceiling on wide labels.

use burn::module::Module;
use w2a_data::Observation;
use w2a_nn::{Checkpoint, Init, NnError};
use w2a_policy::{DemonstrationSet, MiniPolicy, Policy, PolicyNet, SlowPolicy, train_policy};
use w2a_serve::{Layout, Patience, RemotePolicy, ServeError};
use w2a_sim::ACTION_NAMES;

use crate::arms::Arm;
use crate::context::{Context, depends, model};
use crate::data::{NARROW, WIDE, episodes};
use crate::{Config, PipelineError};

pub(crate) const BASE: &str = "policy/base";
pub(crate) const CEILING: &str = "policy/base_wide_labels";

/// Trains the base policy and, if asked for, the ceiling.
pub(crate) fn run(context: &mut Context, with_ceiling: bool) -> Result<(), PipelineError> {
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

/// Whether a run trains this policy: not the base if that is a server's.
pub(crate) fn is_trained(config: &Config, name: &str) -> bool {
    if name == BASE { config.policy.remote.is_empty() } else { Arm::WideLabels.takes_part(config) }
}

/// A policy that nothing is trained in any more: the embedded one, or a server's.
pub(crate) enum Base {
    Mini(Box<MiniPolicy>),
    Remote(Box<RemotePolicy>),
}

impl Base {
    /// A frozen policy around a network.
    pub fn mini(context: &Context, net: PolicyNet, set: &DemonstrationSet) -> Self {
        Self::Mini(Box::new(MiniPolicy::new(net, set.proprio.clone(), set.action.clone(), &context.device)))
    }

    fn inner(&mut self) -> &mut dyn Policy {
        match self {
            Self::Mini(policy) => policy.as_mut(),
            Self::Remote(policy) => policy.as_mut(),
        }
    }
}

impl Policy for Base {
    fn horizon(&self) -> usize {
        match self {
            Self::Mini(policy) => policy.horizon(),
            Self::Remote(policy) => policy.horizon(),
        }
    }

    fn action_dim(&self) -> usize {
        match self {
            Self::Mini(policy) => policy.action_dim(),
            Self::Remote(policy) => policy.action_dim(),
        }
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        self.inner().act(observations, instructions)
    }

    fn reset(&mut self) {
        self.inner().reset();
    }
}

/// The frozen base policy of a run, slowed down as the configuration says.
pub(crate) fn base(context: &Context, set: &DemonstrationSet) -> Result<SlowPolicy<Base>, PipelineError> {
    let config = &context.config.policy;
    let base = if config.remote.is_empty() {
        Base::mini(context, net(context, BASE, set)?, set)
    } else {
        let token = token(&config.remote_token_env, "policy.remote_token_env")?;
        let url = config.remote.parse()?;
        Base::Remote(Box::new(RemotePolicy::connect(url, Layout::tabletop(), token, Patience::default())?))
    };
    Ok(at_pace(context, base))
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
