//! What every connection of a server shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ServeError;
use crate::bend::{Bend, Ending};
use crate::engine::{Engine, Served};
use crate::layout::Layout;
use crate::metrics::Metrics;
use crate::observation::Asked;
use crate::server::ServerConfig;

/// The protocols, with their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// GR00T's: ZeroMQ REP.
    Groot,
    /// openpi's: WebSocket.
    Openpi,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Groot, Self::Openpi];

    /// Name on the command line and in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Groot => "groot",
            Self::Openpi => "openpi",
        }
    }

    /// The port that its clients try first.
    pub fn port(self) -> u16 {
        match self {
            Self::Groot => 5555,
            Self::Openpi => 8000,
        }
    }
}

pub(crate) struct Service {
    pub layout: Layout,
    /// Actions per chunk of an answer.
    pub horizon: usize,
    engine: Engine,
    bend: Option<Arc<dyn Bend>>,
    pub metrics: Arc<Metrics>,
    pub protocol: Protocol,
    pub max_message: u64,
    pub idle: Duration,
    pub stop: Arc<AtomicBool>,
    token: Option<String>,
}

impl Service {
    pub fn new(served: Served, config: &ServerConfig, stop: Arc<AtomicBool>) -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            layout: served.layout.clone(),
            horizon: served.bend.as_ref().map_or(served.horizon, |bend| bend.horizon()),
            bend: served.bend.clone(),
            engine: Engine::start(served, Arc::clone(&metrics)),
            metrics,
            protocol: config.protocol,
            max_message: config.max_message,
            idle: config.idle,
            stop,
            token: config.token.clone(),
        }
    }

    /// The chunks for these observations.
    pub fn act(&self, session: u64, asked: Vec<Asked>) -> Result<Vec<f32>, ServeError> {
        let Some(bend) = &self.bend else { return self.engine.act(session, asked) };
        bend.admit(session, &asked.iter().map(|asked| asked.instruction.as_str()).collect::<Vec<_>>())?;
        let chunks = self.engine.act(session, asked)?;
        bend.settle(session);
        Ok(chunks)
    }

    /// A client says that its episodes are over.
    pub fn reset(&self, session: u64) -> Result<(), ServeError> {
        if let Some(bend) = &self.bend {
            bend.end(session, Ending::Reset);
        }
        self.engine.reset(session)
    }

    /// A client is gone.
    pub fn close(&self, session: u64, broken: bool) {
        if let Some(bend) = &self.bend {
            bend.end(session, if broken { Ending::Broken } else { Ending::Left });
        }
        self.engine.close(session);
    }

    /// The page of counters.
    pub fn page(&self) -> String {
        self.metrics.page() + &self.bend.as_ref().map_or_else(String::new, |bend| bend.metrics())
    }

    /// What has been learnt, as JSON.
    pub fn status(&self) -> Option<String> {
        self.bend.as_ref().and_then(|bend| bend.status())
    }

    /// Goes back to an update; only for those who know the token.
    pub fn roll_back(&self, to: &str, token: Option<&str>) -> Result<String, ServeError> {
        if !self.has_token() {
            let how = "a server with a token: start it with --token-env NAME, or with --rollback N";
            return Err(ServeError::message("rollback", how, "one without"));
        }
        if !self.admits(token) {
            return Err(ServeError::Refused("Unauthorized: Invalid API token"));
        }
        let number = to.parse().map_err(|_| ServeError::message("rollback", "the number of an update", to))?;
        match &self.bend {
            Some(bend) => bend.roll_back(number),
            None => Err(ServeError::message("rollback", "a server that learns: --learn", "one that does not")),
        }
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a client with this token may ask; in the same time whatever the first wrong byte is.
    pub fn admits(&self, token: Option<&str>) -> bool {
        let Some(expected) = &self.token else { return true };
        let got = token.unwrap_or_default();
        let differences = expected.bytes().zip(got.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        expected.len() == got.len() && differences == 0
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Nobody waits for anything any more.
    pub fn wake(&self) {
        if let Some(bend) = &self.bend {
            bend.stop();
        }
    }

    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
