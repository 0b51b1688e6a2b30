//! A policy at another pace than its demonstrations.

use w2a_data::Observation;
use w2a_nn::NnError;

use crate::Policy;

/// A policy that takes more control steps for the same motion: what it would do in `n` steps, this does in `slowdown` times
/// as many.
///
/// Each chunk is stretched in time. Step `k` carries out what the policy planned from `k / slowdown` to
/// `(k + 1) / slowdown`, so displacements become smaller by the factor and their sum stays the same. The policy is asked
/// again as often as before, by when it has come less far; it has to act on what it sees and not on a count of its calls.
///
/// A slowdown of 1, or less, changes nothing.
#[derive(Clone, Debug)]
pub struct SlowPolicy<P> {
    /// The policy at its own pace.
    pub policy: P,
    /// How many times slower.
    pub slowdown: f32,
    /// The entries of an action that say where to be rather than how far to go: they are held, not scaled.
    pub levels: Vec<usize>,
}

impl<P: Policy> SlowPolicy<P> {
    fn factor(&self) -> f64 {
        f64::from(self.slowdown).max(1.0)
    }

    /// One chunk, `[horizon, action_dim]` of the policy, stretched to `steps` rows.
    fn stretch(&self, chunk: &[f32], steps: usize) -> Vec<f32> {
        let dim = self.policy.action_dim();
        let mut out = Vec::with_capacity(steps * dim);
        for step in 0..steps {
            let (begin, end) = (step as f64 / self.factor(), (step + 1) as f64 / self.factor());
            let middle = (0.5 * (begin + end)) as usize;
            for entry in 0..dim {
                if self.levels.contains(&entry) {
                    out.push(chunk[middle * dim + entry]);
                    continue;
                }
                let rows = chunk.chunks_exact(dim).enumerate();
                let moved = rows.map(|(row, action)| {
                    let share = end.min((row + 1) as f64) - begin.max(row as f64);
                    share.max(0.0) * f64::from(action[entry])
                });
                out.push(moved.sum::<f64>() as f32);
            }
        }
        out
    }
}

impl<P: Policy> Policy for SlowPolicy<P> {
    /// Whole steps that a chunk lasts.
    fn horizon(&self) -> usize {
        (self.policy.horizon() as f64 * self.factor()) as usize
    }

    fn action_dim(&self) -> usize {
        self.policy.action_dim()
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        let chunks = self.policy.act(observations, instructions)?;
        if self.factor() == 1.0 {
            return Ok(chunks);
        }
        let (len, steps) = (self.policy.horizon() * self.policy.action_dim(), self.horizon());
        Ok(chunks.chunks_exact(len.max(1)).flat_map(|chunk| self.stretch(chunk, steps)).collect())
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}

#[cfg(test)]
mod tests {
    use w2a_data::Observation;
    use w2a_nn::NnError;

    use super::SlowPolicy;
    use crate::Policy;

    /// Always the same plan: a displacement and a level, four steps.
    struct Plan;

    impl Policy for Plan {
        fn horizon(&self) -> usize {
            4
        }
        fn action_dim(&self) -> usize {
            2
        }
        fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
            Ok([0.4, 1.0, 0.8, 1.0, -0.4, -1.0, 0.2, -1.0].repeat(observations.len()))
        }
        fn reset(&mut self) {}
    }

    fn act(slowdown: f32, batch: usize) -> (usize, Vec<f32>) {
        let mut policy = SlowPolicy { policy: Plan, slowdown, levels: vec![1] };
        let observation = Observation { cameras: vec![], proprio: vec![] };
        (policy.horizon(), policy.act(&vec![observation; batch], &vec![""; batch]).unwrap())
    }

    #[test]
    fn four_steps_become_five_of_the_same_sum_and_levels_keep_their_values() {
        let (horizon, slow) = act(1.25, 2);
        assert_eq!((horizon, slow.len()), (5, 2 * 5 * 2));
        assert_eq!(slow[..10], slow[10..]);
        let (moves, levels): (Vec<f32>, Vec<f32>) = slow[..10].chunks_exact(2).map(|row| (row[0], row[1])).unzip();
        for (got, expected) in moves.iter().zip([0.32, 0.08 + 0.48, 0.32 - 0.16, -0.24 + 0.04, 0.16]) {
            assert!((got - expected).abs() < 1e-6, "{moves:?}");
        }
        assert!((moves.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(levels, [1.0, 1.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn a_slowdown_of_one_changes_no_bit_and_uneven_ones_stay_within_the_plan() {
        let (horizon, same) = act(1.0, 1);
        assert_eq!((horizon, same), (4, Plan.act(&[Observation { cameras: vec![], proprio: vec![] }], &[""]).unwrap()));
        for slowdown in [1.01, 1.1, 1.3, 1.7, 2.0, 3.9] {
            let (horizon, slow) = act(slowdown, 1);
            assert_eq!(horizon, (4.0 * slowdown) as usize);
            assert_eq!(slow.len(), 2 * horizon);
        }
    }
}
