//! What every connection of a server shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::{Engine, Served};
use crate::layout::Layout;
use crate::metrics::Metrics;

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
    pub horizon: usize,
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    pub protocol: Protocol,
    pub max_message: u64,
    pub stop: Arc<AtomicBool>,
    token: Option<String>,
}

impl Service {
    pub fn new(
        served: Served,
        protocol: Protocol,
        token: Option<String>,
        max_message: u64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            layout: served.layout.clone(),
            horizon: served.horizon,
            engine: Engine::start(served, Arc::clone(&metrics)),
            metrics,
            protocol,
            max_message,
            stop,
            token,
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

    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
