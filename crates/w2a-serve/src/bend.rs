//! What may stand between a policy and its clients: a residual, which may learn from those it serves.

use w2a_data::Observation;
use w2a_nn::NnError;

use crate::ServeError;

/// Whose observation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The session: a connection.
    pub session: u64,
    /// The row of its batch: one of the environments of a client that has several.
    pub row: usize,
}

/// How an episode, or a session, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client said so.
    Reset,
    /// The client hung up between two requests.
    Left,
    /// The connection broke: half a message, an answer that could not be delivered, silence for too long.
    Broken,
}

/// Bends the chunks of a policy.
///
/// [`Self::admit`], [`Self::settle`] and [`Self::end`] are called by the thread of a session's connection, in the order
/// of its requests, and may wait; [`Self::bend`] by the one thread that has the policy, and must not.
pub trait Bend: Send + Sync {
    /// Actions per bent chunk.
    fn horizon(&self) -> usize;

    /// A request has arrived, with these instructions, one a row.
    ///
    /// # Errors
    /// If it can no longer be served.
    fn admit(&self, _session: u64, _instructions: &[&str]) -> Result<(), ServeError> {
        Ok(())
    }

    /// Bends base chunks `[rows, base horizon, A]`; the result is `[rows, horizon, A]`.
    ///
    /// # Errors
    /// What does not fit the networks. Nothing may be remembered of a call that fails: its rows are asked about again.
    fn bend(
        &self,
        places: &[Place],
        observations: &[Observation],
        instructions: &[String],
        base: &[f32],
    ) -> Result<Vec<f32>, NnError>;

    /// A request was decided on, and is answered next.
    fn settle(&self, _session: u64) {}

    /// A session's episodes are over.
    fn end(&self, _session: u64, _ending: Ending) {}

    /// Nobody is served any more: wakes whoever waits.
    fn stop(&self) {}

    /// Its own counters, in Prometheus' text format.
    fn metrics(&self) -> String {
        String::new()
    }

    /// What it has learnt so far, as JSON; `None` if it does not learn.
    fn status(&self) -> Option<String> {
        None
    }

    /// Goes back to the weights of update `to`; the result is a sentence about it.
    ///
    /// # Errors
    /// If there is no such update, or nothing that learns.
    fn roll_back(&self, _to: u64) -> Result<String, ServeError> {
        Err(ServeError::message("rollback", "a server that learns: --learn", "one that does not"))
    }
}
