//! Whether a training fits into memory, and if not what would.

use w2a_world::cosmos::Activations;
use w2a_world::cosmos::memory::{MemoryPlan, Trained, gib};

use crate::PipelineError;
use crate::memory;
use crate::tuning::config_error;

/// Adapters for the suggestion to train these.
const RANK: usize = 16;

/// Says what a training takes, and refuses one that is larger than `budget` bytes, or than the machine's memory without one.
///
/// # Errors
/// A training that does not fit; the message says which options would.
pub(super) fn check(
    plan: &MemoryPlan,
    budget: Option<u64>,
    announce: &mut dyn FnMut(&str),
) -> Result<(), PipelineError> {
    let estimate = plan.estimate();
    let Some(limit) = memory::limit(&estimate, budget, announce).filter(|limit| estimate.total() > *limit) else {
        return Ok(());
    };
    let fitting: Vec<String> = options(plan)
        .into_iter()
        .filter(|(_, plan)| plan.estimate().total() <= limit)
        .map(|(flags, plan)| format!("{flags} takes {}", gib(plan.estimate().total())))
        .collect();
    let advice = match fitting.first() {
        Some(first) => first.clone(),
        None => {
            let least = options(plan).into_iter().map(|(_, plan)| plan.estimate().total()).min();
            let least =
                least.map_or(String::new(), |least| format!(" (no other option takes less than {})", gib(least)));
            format!("fewer --world.latent_frames or a smaller --world.frame{least}")
        }
    };
    Err(config_error(
        "memory for fine-tuning",
        format!("at most {}; {advice}", gib(limit)),
        format!("about {estimate}"),
    ))
}

/// Changes of a plan that save memory, those first that change the result least.
fn options(plan: &MemoryPlan) -> Vec<(String, MemoryPlan)> {
    let lora = Trained::Lora { rank: RANK };
    let mut all = Vec::new();
    for trained in [plan.trained, lora] {
        for averages in [plan.averages, false] {
            for activations in [plan.activations, Activations::Recompute] {
                let changed = MemoryPlan { trained, averages, activations, ..plan.clone() };
                let flags: Vec<&str> = [
                    ("--method lora", trained != plan.trained),
                    ("--ema 0", averages != plan.averages),
                    ("--activations recompute", activations != plan.activations),
                ]
                .into_iter()
                .filter_map(|(flag, is_changed)| is_changed.then_some(flag))
                .collect();
                let flags = flags.join(" ");
                let is_new = !all.iter().any(|(known, _): &(String, MemoryPlan)| *known == flags);
                if !flags.is_empty() && is_new && (trained == plan.trained || matches!(plan.trained, Trained::Full)) {
                    all.push((flags, changed));
                }
            }
        }
    }
    all
}
