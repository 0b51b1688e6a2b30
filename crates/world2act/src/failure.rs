//! Every way to fail, and what the user and the shell are told about it.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use w2a_pipeline::PipelineError;

use crate::args::ArgsError;
use crate::settings::SettingsError;

/// Exit code for mistakes that the user can mend.
const USERS_MISTAKE: u8 = 2;
/// Exit code for everything else.
const OURS: u8 = 1;

/// Why the program ends without having done what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The work itself.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Cutting demonstrations into skills.
    #[error(transparent)]
    Skills(#[from] w2a_skills::SkillsError),
    /// Numbers that do not agree with the reference.
    #[error(
        "{} of {} tensors do not agree with the reference; report the lines above with the output of `world2act doctor`",
        counts.1,
        counts.0
    )]
    Parity {
        /// How many were compared, and how many failed.
        counts: (usize, usize),
    },
    /// A dataset with something wrong; what it is has been printed.
    #[error("{count} problems in the dataset; the lines above say which and what to do")]
    Problems {
        /// How many.
        count: usize,
    },
    /// The result could not be printed.
    #[error("printing the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        let is_users_mistake = match self {
            Self::Args(_) | Self::Problems { .. } => true,
            Self::Settings(error) => error.is_users_mistake(),
            Self::Pipeline(error) => error.is_users_mistake(),
            Self::Skills(error) => error.is_users_mistake(),
            Self::Parity { .. } | Self::Output(_) => false,
        };
        if is_users_mistake { USERS_MISTAKE } else { OURS }
    }

    /// Prints one message on stderr (requested help goes to stdout) and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if let Self::Args(ArgsError::Clap(error)) = self {
            // Also the way clap hands over `--help` and `--version`, whose code is 0.
            return match error.print() {
                Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USERS_MISTAKE)),
                Err(_) => ExitCode::from(OURS),
            };
        }
        let _ = std::io::stderr().write_all(message(self).as_bytes());
        ExitCode::from(self.exit_code())
    }
}

/// `error: …` and one line for each cause that says something new.
fn message(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut text = format!("error: {said}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Many of our messages already end with their cause.
        if !said.contains(&words) {
            let _ = writeln!(text, "  because: {words}");
            said = words;
        }
        cause = error.source();
    }
    text
}

/// Adds to the message of a panic that it is a bug and how to report it.
pub fn report_panics_as_bugs() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        let _ = std::io::stderr().write_all(
            b"This is a bug in world2act. Please report the lines above with the output of `world2act doctor`.\n\
              What was computed before is kept: run the same command again with --resume.\n",
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("loading weights failed: {source}")]
    struct Outer {
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("a.safetensors is truncated")]
    struct Inner {
        #[source]
        cause: std::io::Error,
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = Outer { source: Inner { cause: std::io::Error::other("unexpected end") } };
        assert_eq!(
            message(&error),
            "error: loading weights failed: a.safetensors is truncated\n  because: unexpected end\n"
        );
    }
}
