//! Policies that need no training: if an environment is wrong, these show it first.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_data::{Episode, Observation};
use w2a_nn::NnError;

use crate::Policy;

/// Does nothing.
#[derive(Clone, Debug)]
pub struct ZeroPolicy {
    /// Width of one action.
    pub action_dim: usize,
    /// Actions per chunk.
    pub horizon: usize,
}

impl Policy for ZeroPolicy {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn action_dim(&self) -> usize {
        self.action_dim
    }
    fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
        Ok(vec![0.0; observations.len() * self.horizon * self.action_dim])
    }
    fn reset(&mut self) {}
}

/// Actions uniform in `[-1, 1]`.
#[derive(Clone, Debug)]
pub struct RandomPolicy {
    /// Width of one action.
    pub action_dim: usize,
    /// Actions per chunk.
    pub horizon: usize,
    /// The stream.
    pub rng: ChaCha8Rng,
}

impl Policy for RandomPolicy {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn action_dim(&self) -> usize {
        self.action_dim
    }
    fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
        let count = observations.len() * self.horizon * self.action_dim;
        Ok((0..count).map(|_| self.rng.random_range(-1.0..=1.0)).collect())
    }
    fn reset(&mut self) {}
}

/// Plays the actions of recorded episodes, one per environment; zeros past the end.
#[derive(Clone, Debug)]
pub struct ReplayPolicy {
    episodes: Vec<Episode>,
    horizon: usize,
    executed: usize,
    step: usize,
}

impl ReplayPolicy {
    /// Replays `episodes` in environment order; of each chunk of `horizon` actions `executed` are carried out before the
    /// next call.
    pub fn new(episodes: Vec<Episode>, horizon: usize, executed: usize) -> Self {
        Self { episodes, horizon, executed, step: 0 }
    }
}

impl Policy for ReplayPolicy {
    fn horizon(&self) -> usize {
        self.horizon
    }
    fn action_dim(&self) -> usize {
        self.episodes.first().map_or(0, |episode| episode.action_dim)
    }
    fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
        if observations.len() != self.episodes.len() {
            return Err(NnError::Input {
                what: "environments of a replay".into(),
                expected: format!("{}, one per episode", self.episodes.len()),
                got: observations.len().to_string(),
            });
        }
        let mut out = Vec::new();
        for episode in &self.episodes {
            let end = (self.step + self.horizon).min(episode.len());
            let from = &episode.actions[self.step.min(end) * episode.action_dim..end * episode.action_dim];
            out.extend_from_slice(from);
            out.resize(out.len() + self.horizon * episode.action_dim - from.len(), 0.0);
        }
        self.step += self.executed;
        Ok(out)
    }
    fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Policy, ReplayPolicy};
    use w2a_data::{Episode, Observation};

    #[test]
    fn replay_walks_through_the_episode_and_ends_in_zeros() {
        let episode = Episode {
            instruction: String::new(),
            source: String::new(),
            fps: 20,
            cameras: vec![],
            proprio_dim: 0,
            proprio: vec![],
            action_dim: 1,
            actions: vec![1.0, 2.0, 3.0],
        };
        let mut policy = ReplayPolicy::new(vec![episode], 2, 2);
        let observation = [Observation { cameras: vec![], proprio: vec![] }];
        assert_eq!(policy.act(&observation, &[""]).unwrap(), [1.0, 2.0]);
        assert_eq!(policy.act(&observation, &[""]).unwrap(), [3.0, 0.0]);
        assert_eq!(policy.act(&observation, &[""]).unwrap(), [0.0, 0.0]);
        policy.reset();
        assert_eq!(policy.act(&observation, &[""]).unwrap(), [1.0, 2.0]);
        assert!(policy.act(&[], &[]).is_err());
    }
}
