//! The policies that can be served, by their names on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use w2a_serve::Url;

use crate::PipelineError;

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// Actions of zero.
    Zero,
    /// Actions uniform in `[-1, 1]`.
    Random,
    /// The base policy of a run of the embedded benchmark.
    Mini(PathBuf),
    /// A checkpoint of GR00T-N1.6.
    Groot(PathBuf),
    /// Another policy server.
    Remote(Url),
}

impl fmt::Display for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zero"),
            Self::Random => f.write_str("random"),
            Self::Mini(run) => write!(f, "mini:{}", run.display()),
            Self::Groot(dir) => write!(f, "groot:{}", dir.display()),
            Self::Remote(url) => write!(f, "remote:{url}"),
        }
    }
}

impl FromStr for PolicySource {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        match text.split_once(':') {
            None if text == "zero" => Ok(Self::Zero),
            None if text == "random" => Ok(Self::Random),
            Some(("mini", run)) if !run.is_empty() => Ok(Self::Mini(run.into())),
            Some(("groot", dir)) if !dir.is_empty() => Ok(Self::Groot(dir.into())),
            Some(("remote", url)) => Ok(Self::Remote(url.parse()?)),
            _ => Err(PipelineError::Config {
                key: "--policy".into(),
                expected: "zero, random, mini:RUN, groot:DIR or remote:groot://host:port".into(),
                got: format!("{text:?}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PolicySource;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for text in
            ["zero", "random", "mini:runs/demo", "mini:c:/x", "groot:checkpoints/a", "remote:groot://localhost:5555"]
        {
            assert_eq!(text.parse::<PolicySource>().unwrap().to_string(), text);
        }
        for text in ["", "mini", "mini:", "zero:1", "remote:", "remote:localhost", "groot", "groot:"] {
            assert!(text.parse::<PolicySource>().unwrap_err().to_string().contains("expected"), "{text}");
        }
    }
}
