//! `libero`: an evaluation in a simulator of others.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use w2a_pipeline::{EvalProtocol, EvaluateRequest, PolicySource, SimulatorKind};

pub const EVALUATE_HELP: &str = "\
The simulator is the protocol's. Everything in which published evaluations differ is written into protocol.json and
eval.json:

  libero-openpi   fixed initial states, 10 steps to settle, images 256 brought to 224, 5 actions of a chunk, 50 trials
  libero-groot    initial states of the simulator's own draw, images 256, 8 actions, 720 steps, 10 trials, its gripper
  robocasa-groot  suite kitchen: kitchens drawn by the trial's number, images 256, 8 actions, 720 steps, 10 trials
  simpler-groot   suites widowx and google_robot: 1 action of a chunk, 300 steps, 200 trials

scripts/setup-libero.sh makes the folder with the Python that --python names for LIBERO; what the others need is in
python/README.md. RoboCasa was not at hand when this was written: its worker follows the published sources and was tested
with recorded traffic, never with the simulator.

Workers that die, hang or raise are replaced, and their episodes are run again; none of that counts against the policy.

Examples:
  world2act evaluate --policy zero --protocol libero-openpi --suite libero_object --tasks 0-2 --trials 2 --python libero/bin/python --out runs/libero_zero
  world2act evaluate --policy remote:openpi://gpu.local:8000 --protocol libero-openpi --suite libero_spatial --workers 4 --python libero/bin/python --out runs/pi0
  world2act evaluate --policy remote:groot://gpu.local:5555 --protocol libero-groot --suite libero_10 --python libero/bin/python --out runs/groot --resume
  world2act evaluate --policy remote:groot://gpu.local:5555 --protocol robocasa-groot --suite kitchen --python robocasa/bin/python --out runs/kitchen
  world2act evaluate --policy groot:checkpoints/bridge --protocol simpler-groot --suite widowx --tasks 0,1 --python simpler/bin/python --out runs/widowx";

#[derive(Clone, Debug, Args)]
pub(super) struct EvaluateArgs {
    /// What decides: zero, random, mini:RUN (the base policy of a run in LIBERO), groot:DIR (a GR00T-N1.6 checkpoint
    /// with libero_panda, robocasa_panda_omron, oxe_widowx or oxe_google, as the suite has it),
    /// remote:groot://host:port or remote:openpi://host:port
    #[arg(long, value_name = "POLICY")]
    policy: PolicySource,
    /// The published evaluation to follow
    #[arg(long, value_name = "PROTOCOL", value_parser = protocols())]
    protocol: EvalProtocol,
    /// A suite of the protocol's simulator
    #[arg(long, value_name = "SUITE", value_parser = PossibleValuesParser::new(suites()))]
    suite: String,
    /// Its tasks, such as 0-2,7 [default: all]
    #[arg(long, value_name = "LIST", value_parser = tasks)]
    tasks: Option<Tasks>,
    /// Trials of each task [default: the protocol's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: Option<u32>,
    /// Worker processes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Environments of each, in lockstep: their observations go to the policy as one batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    envs: u16,
    /// The Python with the simulator and the workers
    #[arg(long, value_name = "FILE")]
    python: PathBuf,
    /// Folder of the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on with the evaluation in --out
    #[arg(long)]
    resume: bool,
    /// Environment variable with the token of the server behind --policy remote
    #[arg(long, value_name = "NAME")]
    remote_token_env: Option<String>,
    /// Seed of --policy random, and of the noise of --policy groot
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Numbers of tasks; a type of its own because clap reads a `Vec` as a flag that may be repeated.
#[derive(Clone, Debug, PartialEq)]
struct Tasks(Vec<u32>);

fn suites() -> impl Iterator<Item = &'static str> {
    SimulatorKind::ALL.into_iter().flat_map(SimulatorKind::suites).map(|(name, _)| *name)
}

/// Most tasks a suite has.
const MOST_TASKS: u32 = 90;

fn tasks(text: &str) -> Result<Tasks, String> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < MOST_TASKS);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => numbers.extend(first..=last),
            _ => return Err(format!("expected numbers and ranges below {MOST_TASKS}, such as 0-2,7; got {part:?}")),
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(Tasks(numbers))
}

fn protocols() -> impl TypedValueParser<Value = EvalProtocol> {
    PossibleValuesParser::new(EvalProtocol::ALL.map(EvalProtocol::name))
        .try_map(|name| EvalProtocol::ALL.into_iter().find(|known| known.name() == name).ok_or("no such protocol"))
}

impl EvaluateArgs {
    /// The request to the library.
    pub fn request(self) -> EvaluateRequest {
        EvaluateRequest {
            policy: self.policy,
            protocol: self.protocol,
            suite: self.suite,
            tasks: self.tasks.map(|tasks| tasks.0),
            trials: self.trials,
            workers: usize::from(self.workers),
            envs: usize::from(self.envs),
            python: self.python,
            out: self.out,
            resume: self.resume,
            remote_token_env: self.remote_token_env.unwrap_or_default(),
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tasks, tasks};

    #[test]
    fn lists_of_tasks_are_read_and_others_refused() {
        assert_eq!(tasks("0-2,7,1"), Ok(Tasks(vec![0, 1, 2, 7])));
        assert_eq!(tasks("9"), Ok(Tasks(vec![9])));
        for text in ["", ",", "2-0", "-1", "90", "0-4294967296", "a", "1-2-3", "0..9"] {
            assert!(tasks(text).unwrap_err().contains("0-2,7"), "{text}");
        }
    }
}
