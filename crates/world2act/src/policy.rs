//! The subcommands of `policy`: one library call each.

use std::io::Write;

use w2a_pipeline::PipelineError;

use crate::args::PolicyAction;

/// Does what was asked and gives what is to be printed.
///
/// # Errors
/// Those of the library.
pub fn execute(action: &PolicyAction) -> Result<String, PipelineError> {
    match action {
        PolicyAction::Info(request) => w2a_pipeline::policy_info(request),
        PolicyAction::Finetune(request) => w2a_pipeline::finetune(request, &mut |line| {
            // A terminal that is gone is no reason not to train.
            let _ = writeln!(std::io::stderr(), "{line}");
        }),
        PolicyAction::OpenLoop(request) => w2a_pipeline::open_loop(request),
        PolicyAction::Tiny { dir, seed } => w2a_pipeline::write_tiny_policy(dir, *seed),
    }
}
