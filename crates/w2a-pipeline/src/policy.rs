//! The base policy on narrow labels, and the ceiling on wide labels.

use burn::module::Module;
use w2a_nn::{Checkpoint, Init};
use w2a_policy::{DemonstrationSet, MiniPolicy, PolicyNet, SlowPolicy, train_policy};
use w2a_sim::ACTION_NAMES;

use crate::PipelineError;
use crate::arms::Arm;
use crate::context::{Context, depends, model};
use crate::data::{NARROW, WIDE, episodes};

pub(crate) const BASE: &str = "policy/base";
pub(crate) const CEILING: &str = "policy/base_wide_labels";

/// Trains the base policy and, if asked for, the ceiling.
pub(crate) fn run(context: &mut Context, with_ceiling: bool) -> Result<(), PipelineError> {
    for (name, dataset) in [(BASE, NARROW), (CEILING, WIDE)] {
        if name == CEILING && !with_ceiling {
            continue;
        }
        let config = context.config.policy.clone();
        let takes_part = name == BASE || Arm::WideLabels.takes_part(&context.config);
        if !takes_part || Checkpoint::new(context.path(name)).step()? >= config.train.steps {
            continue;
        }
        // Every arm acts through the statistics of the narrow labels, so the ceiling is trained with them too.
        let mut set = model(DemonstrationSet::new(episodes(context, NARROW)?))?;
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

/// The network that a training left under `name`, without gradients.
pub(crate) fn net(context: &Context, name: &str, set: &DemonstrationSet) -> Result<PolicyNet, PipelineError> {
    let mut rng = w2a_data::stream(0, "load");
    let init = &mut Init { rng: &mut rng, device: &context.device };
    let first = &set.episodes[0];
    let config = &context.config.policy.model;
    let net = PolicyNet::new(config, first.cameras.len(), first.proprio_dim, first.action_dim, init);
    Ok(model(Checkpoint::new(context.path(name)).load(net))?.valid())
}

/// A frozen policy around a network, slowed down as the configuration says: whatever acts, acts at this pace.
pub(crate) fn frozen(context: &Context, net: PolicyNet, set: &DemonstrationSet) -> SlowPolicy<MiniPolicy> {
    let policy = MiniPolicy::new(net, set.proprio.clone(), set.action.clone(), &context.device);
    // The gripper is told where to be, not how far to move.
    let levels = (0..ACTION_NAMES.len()).filter(|&entry| ACTION_NAMES[entry] == "gripper").collect();
    SlowPolicy { policy, slowdown: context.config.policy.slowdown, levels }
}
