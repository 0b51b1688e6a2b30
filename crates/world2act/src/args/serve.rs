//! `serve`: a policy on the wire.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use w2a_pipeline::{
    CheckpointOptions, Flip, Gripper, Habits, Layout, LearnRequest, PolicySource, Protocol, ServeRequest,
};

pub const SERVE_HELP: &str = "\
Clients speak as those of Isaac-GR00T (ZeroMQ, port 5555) or of openpi (WebSocket, port 8000) do. Both ports also have
the pages /healthz and /metrics over HTTP. What clients have to send is in docs/formats.md.

Only this machine can connect unless --host says otherwise; then set a token. GR00T's `kill` works with a token only.
--learn post-trains while serving: episodes end with a client's reset or its connection, updates are tried on served
episodes before they are used, and /learning says how it stands. See docs/serving.md.

SIGINT and SIGTERM end the server after the answers under way, and what it has counted is printed.

Examples:
  world2act serve --policy zero --env libero --protocol groot
  world2act serve --policy mini:runs/demo --protocol openpi --port 8001
  world2act serve --policy groot:checkpoints/groot_libero --embodiment libero_panda --protocol groot
  world2act serve --policy mini:runs/demo --residual runs/demo/posttrain/w2a/seed0 --protocol groot
  world2act serve --policy remote:groot://gpu.local:5555 --residual runs/demo/posttrain/w2a/seed0 --protocol groot --port 5556
  world2act serve --policy mini:runs/demo --learn runs/demo --protocol groot
  world2act serve --policy mini:runs/libero --learn runs/libero --env libero --protocol openpi
  world2act serve --policy random --protocol groot --host 0.0.0.0 --token-env W2A_TOKEN";

#[derive(Clone, Debug, Args)]
pub(super) struct ServeArgs {
    /// What decides: zero, random, mini:RUN (a run's base policy), groot:DIR (a GR00T-N1.6 checkpoint),
    /// remote:groot://host:port or remote:openpi://host:port
    #[arg(long, value_name = "POLICY")]
    policy: PolicySource,
    /// Bend its chunks by what stage 2 trained: the folder RUN/posttrain/METHOD/seedN, or an update of --learn
    #[arg(long, value_name = "DIR")]
    residual: Option<PathBuf>,
    #[command(flatten)]
    learn: LearnArgs,
    /// Names and sizes of observations and actions [default: a checkpoint's own, or the run's, else tabletop]
    #[arg(long, value_name = "ENV", value_parser = layouts())]
    env: Option<Layout>,
    /// How clients of a run that was trained in LIBERO turn the simulator's images [default: as the protocol's own client]
    #[arg(long, value_name = "FLIP", value_parser = flips())]
    flip: Option<Flip>,
    /// What their gripper means: as_is (-1 opens, 1 closes) or groot (0 closed, 1 open) [default: as the protocol's own
    /// client]
    #[arg(long, value_name = "GRIPPER", value_parser = grippers())]
    gripper: Option<Gripper>,
    /// The embodiment of --policy groot, by its tag
    #[arg(long, value_name = "TAG")]
    embodiment: Option<String>,
    /// Folder with the tokenizer of --policy groot, if it is not with the checkpoint
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    /// A LoRA adapter of `policy finetune` for --policy groot
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What is spoken
    #[arg(long, value_name = "PROTOCOL", value_parser = protocols())]
    protocol: Protocol,
    /// Port [default: 5555 for groot, 8000 for openpi]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Environment variable with the token that clients have to send
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Environment variable with the token of the server behind --policy remote
    #[arg(long, value_name = "NAME")]
    remote_token_env: Option<String>,
    /// Seed of --policy random, of the noise of --policy groot, and of --learn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// What `--learn` has to know.
#[derive(Clone, Debug, Args)]
struct LearnArgs {
    /// Post-train the residual on the episodes that are served, with this run's adapters and world model; --residual is
    /// then where it starts
    #[arg(long, value_name = "RUN")]
    learn: Option<PathBuf>,
    /// Where episodes and updates are kept, and gone on with [default: RUN/learn]
    #[arg(long, value_name = "DIR", requires = "learn")]
    learn_out: Option<PathBuf>,
    /// New episodes between two updates
    #[arg(long, value_name = "N", requires = "learn", default_value_t = 32)]
    learn_batch: usize,
    /// Episodes that an update has to be judged by, and as many without it
    #[arg(long, value_name = "N", requires = "learn", default_value_t = 8)]
    learn_trial: usize,
    /// Most episodes that are kept, the newest
    #[arg(long, value_name = "N", requires = "learn", default_value_t = 256)]
    learn_keep: usize,
    /// Scale of the step [default: that of --residual, or the run's posttrain.stage2.rollout_gain]
    #[arg(long, value_name = "G", requires = "learn")]
    learn_gain: Option<f32>,
    /// Go back to the weights of this update before anyone is served
    #[arg(long, value_name = "N", requires = "learn")]
    rollback: Option<u64>,
}

impl LearnArgs {
    fn request(self) -> Option<LearnRequest> {
        let Self { learn, learn_out, learn_batch, learn_trial, learn_keep, learn_gain, rollback } = self;
        Some(LearnRequest {
            run: learn?,
            out: learn_out,
            batch: learn_batch,
            trial: learn_trial,
            keep: learn_keep,
            gain: learn_gain,
            rollback,
        })
    }
}

fn layouts() -> impl TypedValueParser<Value = Layout> {
    // Names come from the list of layouts, so one of them is found.
    PossibleValuesParser::new(Layout::NAMES).try_map(|name| Layout::by_name(&name).ok_or("no such environment"))
}

fn protocols() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(Protocol::ALL.map(Protocol::name))
        .try_map(|name| Protocol::ALL.into_iter().find(|known| known.name() == name).ok_or("no such protocol"))
}

fn flips() -> impl TypedValueParser<Value = Flip> {
    PossibleValuesParser::new(["none", "vertical", "rotate_180"]).map(|name| match name.as_str() {
        "none" => Flip::None,
        "vertical" => Flip::Vertical,
        _ => Flip::Rotate180,
    })
}

fn grippers() -> impl TypedValueParser<Value = Gripper> {
    PossibleValuesParser::new(["as_is", "groot"]).map(|name| match name.as_str() {
        "as_is" => Gripper::AsIs,
        _ => Gripper::Groot,
    })
}

impl ServeArgs {
    /// The request to the library.
    pub fn request(self) -> ServeRequest {
        let habits = (self.flip.is_some() || self.gripper.is_some()).then(|| {
            let Habits { flip, gripper } = Habits::of(self.protocol);
            Habits { flip: self.flip.unwrap_or(flip), gripper: self.gripper.unwrap_or(gripper) }
        });
        ServeRequest {
            policy: self.policy,
            residual: self.residual,
            learn: self.learn.request(),
            layout: self.env,
            habits,
            checkpoint: CheckpointOptions {
                embodiment: self.embodiment,
                backbone: self.backbone,
                adapter: self.adapter,
            },
            port: self.port.unwrap_or(self.protocol.port()),
            protocol: self.protocol,
            host: self.host,
            token_env: self.token_env.unwrap_or_default(),
            remote_token_env: self.remote_token_env.unwrap_or_default(),
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use w2a_pipeline::{Flip, Gripper, Habits, LearnRequest, Protocol, ServeRequest};

    use crate::args::{Action, parse};

    fn serve(more: &[&str]) -> Result<ServeRequest, String> {
        let words = ["world2act", "serve", "--policy", "zero", "--protocol", "groot"].iter().chain(more);
        match parse(words.map(OsString::from).collect::<Vec<_>>()) {
            Ok(Action::Serve(request)) => Ok(*request),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn learning_has_the_defaults_of_the_library_and_its_flags_mean_nothing_alone() {
        assert_eq!(serve(&[]).unwrap().learn, None);
        assert_eq!(serve(&["--learn", "runs/a"]).unwrap().learn, Some(LearnRequest::new("runs/a".into())));
        let flags = ["--learn", "runs/a", "--learn-out", "b", "--learn-gain", "0.2", "--rollback", "3"];
        let learn = serve(&flags).unwrap().learn.unwrap();
        assert_eq!((learn.out, learn.gain, learn.rollback), (Some("b".into()), Some(0.2), Some(3)));
        for alone in [["--rollback", "3"], ["--learn-batch", "8"], ["--learn-out", "b"], ["--learn-gain", "1"]] {
            let error = serve(&alone).unwrap_err();
            assert!(error.contains("--learn <RUN>"), "{alone:?}: {error}");
        }
        assert!(serve(&["--learn", "a", "--learn-trial", "-1"]).is_err());
    }

    #[test]
    fn habits_of_clients_are_the_protocols_but_for_what_is_said() {
        assert_eq!(serve(&[]).unwrap().habits, None);
        let said = |more: &[&str]| serve(more).unwrap().habits.unwrap();
        assert_eq!(said(&["--gripper", "groot"]), Habits::of(Protocol::Groot));
        let other = Habits { flip: Flip::Vertical, gripper: Gripper::AsIs };
        assert_eq!(said(&["--flip", "vertical", "--gripper", "as_is"]), other);
        assert_eq!(said(&["--flip", "none"]), Habits { flip: Flip::None, ..Habits::of(Protocol::Groot) });
        assert!(serve(&["--flip", "upright"]).unwrap_err().contains("rotate_180"));
    }
}
