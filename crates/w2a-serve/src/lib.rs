//! Policies over the wire: servers that GR00T's and openpi's own clients talk to, and policies that are such servers
//! somewhere else.
//!
//! A [`Server`] has a thread for each connection and one for the policy. Requests are read with limits on everything
//! ([`codec`]), checked against a [`Layout`] by name, type and shape, and batched. [`RemotePolicy`] is the other side: an
//! ordinary [`w2a_policy::Policy`].

mod bend;
mod client;
pub mod codec;
mod engine;
mod error;
mod groot;
mod layout;
mod metrics;
mod observation;
mod openpi;
pub mod parity;
mod remote;
mod server;
mod service;
pub mod simulator;
mod transport;

pub use bend::{Bend, Ending, Place};
pub use engine::{BoxedPolicy, JointPolicy, MakePolicy, Served, Sessions};
pub use error::ServeError;
pub use layout::{CameraLayout, Layout, OPENPI_PROMPT, OPENPI_STATE, Part};
pub use remote::{Patience, RemotePolicy, Url};
pub use server::{Server, ServerConfig, stop_on_signals};
pub use service::Protocol;
