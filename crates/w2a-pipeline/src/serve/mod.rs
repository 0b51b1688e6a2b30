//! `serve`: a policy, bent by what stage 2 trained or not, on the wire.

mod bent;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use w2a_policy::{Policy, RandomPolicy, ZeroPolicy};
use w2a_serve::{
    BoxedPolicy, Layout, Patience, Protocol, RemotePolicy, Served, Server, ServerConfig, Sessions, stop_on_signals,
};

pub use source::PolicySource;

use crate::PipelineError;
use crate::context::Context;
use crate::policy::{base, token};
use bent::Bend;

/// Actions per chunk of the policies that know no better: as many as GR00T's for LIBERO.
const HORIZON: usize = 16;

/// What to serve, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeRequest {
    /// The policy.
    pub policy: PolicySource,
    /// The folder of a trained residual inside of its run, such as `runs/demo/posttrain/w2a/seed0`.
    pub residual: Option<PathBuf>,
    /// Names and sizes of observations and actions.
    pub layout: Layout,
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
    /// Seed of [`PolicySource::Random`].
    pub seed: u64,
}

/// Serves until SIGINT or SIGTERM, or until a client with the token says so. `ready` is told, once, where; the result is
/// what was counted, in Prometheus' text format.
///
/// # Errors
/// A policy that cannot be loaded or does not fit the layout, and an address that cannot be listened on.
pub fn serve(request: &ServeRequest, ready: impl FnOnce(&str)) -> Result<String, PipelineError> {
    let server = start_serving(request, stop_on_signals()?)?;
    let open = !server.address().ip().is_loopback() && request.token_env.is_empty();
    let warning = if open { "; everyone who can reach it can use it, unless --token-env names a token" } else { "" };
    let address = server.address();
    ready(&format!("serving {} at {}://{address}{warning}", request.policy, request.protocol.name()));
    Ok(server.wait())
}

/// Serves in the background until `stop` becomes true, the server is dropped, or a client with the token says so.
///
/// # Errors
/// As [`serve`].
pub fn start_serving(request: &ServeRequest, stop: Arc<AtomicBool>) -> Result<Server, PipelineError> {
    let mut config = ServerConfig::new(request.protocol);
    (config.host, config.port) = (request.host.clone(), request.port);
    config.token = token(&request.token_env, "--token-env")?;
    Ok(Server::start(served(request)?, &config, stop)?)
}

/// The policy with its sizes.
fn served(request: &ServeRequest) -> Result<Served, PipelineError> {
    let layout = &request.layout;
    let (action_dim, seed) = (layout.action_width(), request.seed);
    let bend = request.residual.as_deref().map(Bend::load).transpose()?;
    if bend.is_some() {
        only_tabletop(layout, "--residual")?;
    }
    let horizon = |own: usize| match &bend {
        Some(bend) => bend.chunk_len(own),
        None => Ok(own),
    };
    let around = bend.clone();
    let bent = move |policy: BoxedPolicy| -> BoxedPolicy {
        match &around {
            Some(bend) => Box::new(bend.clone().around(policy)),
            None => policy,
        }
    };
    let (horizon, sessions) = match &request.policy {
        PolicySource::Zero => {
            let policy = ZeroPolicy { action_dim, horizon: HORIZON };
            (horizon(HORIZON)?, Sessions::Shared(bent(Box::new(policy))))
        }
        PolicySource::Random => {
            let horizon = horizon(HORIZON)?;
            let make = move |session: u64| {
                let rng = w2a_data::stream(seed, &format!("serve/random/{session}"));
                Ok(bent(Box::new(RandomPolicy { action_dim, horizon: HORIZON, rng })))
            };
            (horizon, Sessions::Own(Box::new(make)))
        }
        PolicySource::Mini(run) => {
            only_tabletop(layout, "--policy mini")?;
            let policy = mini(run)?;
            (horizon(policy.horizon())?, Sessions::Shared(bent(policy)))
        }
        PolicySource::Remote(url) => {
            let (url, layout) = (url.clone(), layout.clone());
            let token = token(&request.remote_token_env, "--remote-token-env")?;
            // Asked once before anyone is served: a server that is not there is better known now.
            let first = RemotePolicy::connect(url.clone(), layout.clone(), token.clone(), Patience::default())?;
            let horizon = horizon(first.horizon())?;
            let make = move |_| {
                let again = RemotePolicy::connect(url.clone(), layout.clone(), token.clone(), Patience::default());
                let remote = again.map_err(|error| w2a_nn::NnError::Input {
                    what: format!("policy server {url}"),
                    expected: "a connection for a new session".into(),
                    got: error.to_string(),
                })?;
                Ok(bent(Box::new(remote)))
            };
            (horizon, Sessions::Own(Box::new(make)))
        }
    };
    Ok(Served { layout: layout.clone(), horizon, sessions })
}

/// The base policy of a run.
fn mini(run: &std::path::Path) -> Result<BoxedPolicy, PipelineError> {
    let context = Context::existing(run)?;
    if !context.config.policy.remote.is_empty() {
        return Err(PipelineError::Config {
            key: "--policy".into(),
            expected: format!("a run with a policy of its own, or --policy remote:{}", context.config.policy.remote),
            got: run.display().to_string(),
        });
    }
    let set = crate::policy::demonstrations(&context)?;
    Ok(Box::new(base(&context, &set)?))
}

fn only_tabletop(layout: &Layout, what: &str) -> Result<(), PipelineError> {
    if layout.name == Layout::tabletop().name {
        return Ok(());
    }
    Err(PipelineError::Config {
        key: "--env".into(),
        expected: format!("tabletop with {what}: that was trained there"),
        got: layout.name.into(),
    })
}
