//! The subcommands of `world`: one library call each.

use w2a_pipeline::PipelineError;

use crate::args::WorldAction;

/// Does what was asked and gives what is to be printed.
///
/// # Errors
/// Those of the library.
pub fn execute(action: &WorldAction) -> Result<String, PipelineError> {
    match action {
        WorldAction::Imagine(request) => Ok(w2a_pipeline::imagine(request)?.summary()),
        WorldAction::Preview(request) => w2a_pipeline::preview(request),
        WorldAction::Scenes(request) => {
            Ok(format!("{} scenes: {}\n", w2a_pipeline::export_scenes(request)?, request.out.display()))
        }
    }
}
