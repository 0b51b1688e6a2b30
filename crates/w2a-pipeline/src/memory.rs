//! How much memory there is for what is about to begin.

use std::fmt::Display;

use w2a_report::Machine;
use w2a_world::cosmos::memory::gib;

/// The bytes that may be taken: `budget`, or the machine's memory; `None` where the system does not tell. `announce` is told
/// them beside the estimate of what will be.
pub(crate) fn limit(estimate: &dyn Display, budget: Option<u64>, announce: &mut dyn FnMut(&str)) -> Option<u64> {
    let limit = budget.or_else(|| Machine::detect().memory_mib.map(|mib| mib << 20));
    match limit {
        Some(limit) => announce(&format!("memory: about {estimate}; there are {}", gib(limit))),
        None => announce(&format!("memory: about {estimate}; how much there is, this system does not tell")),
    }
    limit
}
