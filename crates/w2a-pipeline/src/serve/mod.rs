//! `serve`: a policy, bent by what stage 2 trained or not, on the wire.

pub(crate) mod bent;
mod home;
mod joint;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use w2a_nn::NnError;
use w2a_policy::groot::{Groot, GrootOptions};
use w2a_policy::{Policy, RandomPolicy, ZeroPolicy};
use w2a_serve::{
    Bend, BoxedPolicy, Layout, Patience, Protocol, RemotePolicy, Served, Server, ServerConfig, Sessions,
    stop_on_signals,
};

pub use home::Habits;
pub use source::PolicySource;

use crate::context::Context;
use crate::learn::{LearnRequest, Tell};
use crate::policy::{base, token};
use crate::{Config, PipelineError};
use bent::{Bent, Chosen, check_horizon};
use home::{Abroad, BentAbroad, Interpreter};
use joint::JointGroot;

/// Actions per chunk of the policies that know no better: as many as GR00T's for LIBERO.
const HORIZON: usize = 16;

/// What to serve, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeRequest {
    /// The policy.
    pub policy: PolicySource,
    /// The folder of a trained residual inside of its run, such as `runs/demo/posttrain/w2a/seed0`.
    pub residual: Option<PathBuf>,
    /// What is learnt from those who are served, if anything. [`Self::residual`] is then where it starts.
    pub learn: Option<LearnRequest>,
    /// Names and sizes of observations and actions; `None` for those of the checkpoint with [`PolicySource::Groot`], of
    /// the run that anything here comes from, and else of the embedded benchmark.
    pub layout: Option<Layout>,
    /// What clients of a run that was trained in LIBERO do; `None` for what the LIBERO client of [`Self::protocol`]'s
    /// project does. An error where nothing comes from such a run.
    pub habits: Option<Habits>,
    /// What to know about the checkpoint of [`PolicySource::Groot`].
    pub checkpoint: CheckpointOptions,
    /// What is spoken.
    pub protocol: Protocol,
    /// Address to listen on.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Environment variable with the token that clients have to know; empty for none.
    pub token_env: String,
    /// Environment variable with the token of the server behind [`PolicySource::Remote`]; empty for none.
    pub remote_token_env: String,
    /// Seed of [`PolicySource::Random`], of the noise of [`PolicySource::Groot`], and of what is learnt.
    pub seed: u64,
}

/// How a checkpoint of GR00T is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Tag of the embodiment; has to be given.
    pub embodiment: Option<String>,
    /// Folder with the tokenizer, if it is not with the checkpoint.
    pub backbone: Option<PathBuf>,
    /// A LoRA adapter of `policy finetune`.
    pub adapter: Option<PathBuf>,
}

/// Serves until SIGINT or SIGTERM, or until a client with the token says so. `tell` is told where, once, and what is
/// learnt; the result is what was counted, in Prometheus' text format.
///
/// # Errors
/// A policy that cannot be loaded or does not fit the layout, and an address that cannot be listened on.
pub fn serve(request: &ServeRequest, tell: Tell) -> Result<String, PipelineError> {
    let server = start_serving(request, stop_on_signals()?, Arc::clone(&tell))?;
    let open = !server.address().ip().is_loopback() && request.token_env.is_empty();
    let warning = if open { "; everyone who can reach it can use it, unless --token-env names a token" } else { "" };
    let address = server.address();
    tell(&format!("serving {} at {}://{address}{warning}; stop with Ctrl-C", request.policy, request.protocol.name()));
    Ok(server.wait())
}

/// Serves in the background until `stop` becomes true, the server is dropped, or a client with the token says so.
///
/// # Errors
/// As [`serve`].
pub fn start_serving(request: &ServeRequest, stop: Arc<AtomicBool>, tell: Tell) -> Result<Server, PipelineError> {
    let mut config = ServerConfig::new(request.protocol);
    (config.host, config.port) = (request.host.clone(), request.port);
    config.token = token(&request.token_env, "--token-env")?;
    Ok(Server::start(served(request, tell)?, &config, stop)?)
}

/// The policy with its sizes, bent if a residual is given.
fn served(request: &ServeRequest, tell: Tell) -> Result<Served, PipelineError> {
    let (config, bend): (Config, Arc<dyn Bend>) = match (&request.learn, request.residual.as_deref()) {
        (Some(learn), residual) => {
            let config = learn.context()?.config;
            // Before anything is loaded or written.
            if let Some(layout) = &request.layout {
                home::check(&config, layout, "--learn")?;
            }
            (config, learn_start(request, learn, residual, tell)?)
        }
        (None, Some(folder)) => {
            let (context, shared, chosen) = Chosen::open(folder)?;
            (context.config.clone(), Arc::new(Bent::new(&context, &shared, &chosen)))
        }
        (None, None) => {
            if request.habits.is_some() && !matches!(request.policy, PolicySource::Mini(_)) {
                return Err(home::no_habits("a policy that is passed on as it is"));
            }
            return plain(request, None);
        }
    };
    let plain = plain(request, Some(config.layout()))?;
    home::check(&config, &plain.layout, if request.learn.is_some() { "--learn" } else { "--residual" })?;
    let bend: Arc<dyn Bend> =
        Arc::new(BentAbroad { bend, interpreter: Interpreter::of(&config, request.protocol, request.habits)? });
    check_horizon(plain.horizon, bend.horizon())?;
    Ok(Served { bend: Some(bend), ..plain })
}

fn learn_start(
    request: &ServeRequest,
    learn: &LearnRequest,
    residual: Option<&Path>,
    tell: Tell,
) -> Result<Arc<dyn Bend>, PipelineError> {
    Ok(Arc::new(crate::learn::start(learn, residual, &request.policy.to_string(), request.seed, tell)?))
}

/// The policy as it is; `home` is the layout of the run that bends it.
fn plain(request: &ServeRequest, home: Option<Layout>) -> Result<Served, PipelineError> {
    let is_groot = matches!(request.policy, PolicySource::Groot(_));
    if !is_groot && request.checkpoint != CheckpointOptions::default() {
        let (key, expected) = ("--embodiment, --backbone or --adapter", "nothing without --policy groot");
        return Err(refused(key, expected, &format!("{:?}", request.checkpoint)));
    }
    let home = match &request.policy {
        PolicySource::Mini(run) => Some(Context::existing(run)?.config.layout()),
        _ => home,
    };
    let layout = request.layout.clone().or(home).unwrap_or_else(Layout::tabletop);
    let (action_dim, seed) = (layout.action_width(), request.seed);
    Ok(match &request.policy {
        PolicySource::Zero => {
            let policy = ZeroPolicy { action_dim, horizon: HORIZON };
            Served { layout, horizon: HORIZON, sessions: Sessions::Shared(Box::new(policy)), bend: None }
        }
        PolicySource::Random => {
            let make = move |session: u64| -> Result<BoxedPolicy, NnError> {
                let rng = w2a_data::stream(seed, &format!("serve/random/{session}"));
                Ok(Box::new(RandomPolicy { action_dim, horizon: HORIZON, rng }))
            };
            Served { layout, horizon: HORIZON, sessions: Sessions::Own(Box::new(make)), bend: None }
        }
        PolicySource::Mini(run) => {
            let policy = mini(request, run, &layout)?;
            let layout = home::with_any_images(layout);
            Served { layout, horizon: policy.horizon(), sessions: Sessions::Shared(policy), bend: None }
        }
        PolicySource::Groot(dir) => {
            let groot = groot(request, dir)?;
            let (layout, horizon) = (Layout::of_groot(&groot)?, groot.horizon());
            Served { layout, horizon, sessions: Sessions::Joint(Box::new(JointGroot::new(groot))), bend: None }
        }
        PolicySource::Remote(url) => {
            let (url, names) = (url.clone(), layout.clone());
            let token = token(&request.remote_token_env, "--remote-token-env")?;
            // Asked once before anyone is served: a server that is not there is better known now.
            let first = RemotePolicy::connect(url.clone(), names.clone(), token.clone(), Patience::default())?;
            let make = move |_| -> Result<BoxedPolicy, NnError> {
                let again = RemotePolicy::connect(url.clone(), names.clone(), token.clone(), Patience::default());
                let remote = again.map_err(|error| NnError::Input {
                    what: format!("policy server {url}"),
                    expected: "a connection for a new session".into(),
                    got: error.to_string(),
                })?;
                Ok(Box::new(remote))
            };
            Served { layout, horizon: first.horizon(), sessions: Sessions::Own(Box::new(make)), bend: None }
        }
    })
}

/// The checkpoint of GR00T for its embodiment, with its adapter.
fn groot(request: &ServeRequest, dir: &Path) -> Result<Groot, PipelineError> {
    if let Some(layout) = &request.layout {
        return Err(refused("--env", "nothing with --policy groot: the checkpoint says it", &layout.name));
    }
    let CheckpointOptions { embodiment, backbone, adapter } = &request.checkpoint;
    let expected = "a tag of the checkpoint with --policy groot; `policy info` lists them";
    let tag = embodiment.as_deref().ok_or_else(|| refused("--embodiment", expected, "nothing"))?;
    let mut options = GrootOptions::new(&Device::flex());
    (options.backbone, options.seed) = (backbone.clone(), request.seed);
    crate::groot_data::load(dir, tag, &options, adapter.as_deref())
}

fn refused(key: &str, expected: &str, got: &str) -> PipelineError {
    PipelineError::Config { key: key.into(), expected: expected.into(), got: got.into() }
}

/// The base policy of a run.
fn mini(request: &ServeRequest, run: &Path, layout: &Layout) -> Result<BoxedPolicy, PipelineError> {
    let context = Context::existing(run)?;
    home::check(&context.config, layout, "--policy mini")?;
    let policy = &context.config.policy;
    if policy.is_foreign() {
        let foreign = if policy.is_groot() {
            format!("groot:{}", policy.groot.path)
        } else {
            format!("remote:{}", policy.remote)
        };
        let expected = format!("a run with a policy of its own, or --policy {foreign}");
        return Err(refused("--policy", &expected, &run.display().to_string()));
    }
    let set = crate::policy::demonstrations(&context)?;
    let policy = base(&context, &set)?;
    let interpreter = Interpreter::of(&context.config, request.protocol, request.habits)?;
    Ok(Box::new(Abroad { policy, interpreter }))
}
