//! A policy that acts more often than an environment is asked.

use burn::tensor::Tensor;
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Linear, NnError};

use crate::{AdaptablePolicy, Policy};

/// A policy of which `stride` actions that follow one another are one action of an environment, as in one that carries several
/// out between two observations. What is left over at the end of a chunk is dropped.
#[derive(Clone, Debug)]
pub struct Strided<P> {
    policy: P,
    stride: usize,
    /// Of the wide actions, where the policy has one.
    normaliser: Option<Normaliser>,
}

impl<P: Policy> Strided<P> {
    /// `policy` with `stride` actions in one.
    ///
    /// # Errors
    /// A policy whose chunks are shorter than one action.
    pub fn new(policy: P, stride: usize) -> Result<Self, NnError> {
        if stride == 0 || policy.horizon() < stride {
            return Err(NnError::Input {
                what: "chunks of the policy".into(),
                expected: format!("at least {stride} actions, as many as the environment carries out at once"),
                got: policy.horizon().to_string(),
            });
        }
        Ok(Self { policy, stride, normaliser: None })
    }

    /// Values of a chunk that are used.
    fn used(&self) -> usize {
        self.horizon() * self.action_dim()
    }

    /// Values of a chunk of the policy itself.
    fn whole(&self) -> usize {
        self.policy.horizon() * self.policy.action_dim()
    }
}

impl<P: AdaptablePolicy> Strided<P> {
    /// [`Self::new`] for a policy that is to be adapted, whose normaliser has to be that of the wide actions too.
    ///
    /// # Errors
    /// As there.
    pub fn adaptable(policy: P, stride: usize) -> Result<Self, NnError> {
        let normaliser = policy.action_normaliser().map(|one| one.repeated(stride));
        Ok(Self { normaliser, ..Self::new(policy, stride)? })
    }
}

impl<P: Policy> Policy for Strided<P> {
    fn horizon(&self) -> usize {
        self.policy.horizon() / self.stride
    }

    fn action_dim(&self) -> usize {
        self.policy.action_dim() * self.stride
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        let chunks = self.policy.act(observations, instructions)?;
        let (used, whole) = (self.used(), self.whole());
        if used == whole {
            return Ok(chunks);
        }
        Ok(chunks.chunks_exact(whole.max(1)).flat_map(|chunk| &chunk[..used]).copied().collect())
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}

impl<P: AdaptablePolicy> AdaptablePolicy for Strided<P> {
    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        self.policy.linear_layers()
    }

    fn forward(&self, observations: &[Observation], instructions: &[&str]) -> Result<Tensor<2>, NnError> {
        Ok(self.policy.forward(observations, instructions)?.narrow(1, 0, self.used()))
    }

    fn action_normaliser(&self) -> Option<&Normaliser> {
        self.normaliser.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use w2a_data::Observation;
    use w2a_nn::NnError;

    use super::Strided;
    use crate::{Policy, ZeroPolicy};

    /// Counts: five actions of three values.
    struct Counting;

    impl Policy for Counting {
        fn horizon(&self) -> usize {
            5
        }
        fn action_dim(&self) -> usize {
            3
        }
        fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
            Ok((0..observations.len() * 15).map(|value| value as f32).collect())
        }
        fn reset(&mut self) {}
    }

    #[test]
    fn two_actions_of_three_are_one_of_six_and_a_last_single_one_is_dropped() {
        let seen = vec![Observation { cameras: vec![], proprio: vec![] }; 2];
        let mut policy = Strided::new(Counting, 2).unwrap();
        assert_eq!((policy.horizon(), policy.action_dim()), (2, 6));
        let expected: Vec<f32> = (0..12).chain(15..27).map(|value| value as f32).collect();
        assert_eq!(policy.act(&seen, &["", ""]).unwrap(), expected);
        let mut single = Strided::new(Counting, 1).unwrap();
        assert_eq!((single.horizon(), single.act(&seen, &["", ""]).unwrap().len()), (5, 30));
        let zero = || ZeroPolicy { action_dim: 1, horizon: 3 };
        assert!(Strided::new(zero(), 4).unwrap_err().to_string().contains("at least 4 actions"));
        assert!(Strided::new(zero(), 0).is_err());
    }
}
