//! GR00T for several sessions at once.

use std::collections::BTreeMap;

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_policy::groot::Groot;
use w2a_serve::{JointPolicy, Place};

/// One copy of the weights; noise is counted from each session's reset.
pub(super) struct JointGroot {
    groot: Groot,
    /// Calls since the reset, by session.
    calls: BTreeMap<u64, u64>,
}

impl JointGroot {
    pub fn new(groot: Groot) -> Self {
        Self { groot, calls: BTreeMap::new() }
    }
}

impl JointPolicy for JointGroot {
    fn act(
        &mut self,
        places: &[Place],
        observations: &[Observation],
        instructions: &[&str],
    ) -> Result<Vec<f32>, NnError> {
        let sessions: Vec<&[Place]> = places.chunk_by(|a, b| a.session == b.session).collect();
        let calls = |session: &&[Place]| {
            let calls = session.first().and_then(|place| self.calls.get(&place.session));
            (calls.copied().unwrap_or(0), session.len())
        };
        let groups: Vec<(u64, usize)> = sessions.iter().map(calls).collect();
        let chunks = self.groot.act_in_groups(observations, instructions, &groups)?;
        for place in sessions.iter().filter_map(|session| session.first()) {
            *self.calls.entry(place.session).or_default() += 1;
        }
        Ok(chunks)
    }

    fn forget(&mut self, session: u64) {
        self.calls.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2a_data::{Camera, Observation};
    use w2a_policy::Policy;
    use w2a_policy::groot::{Groot, GrootOptions};
    use w2a_serve::{JointPolicy, Place};

    use super::JointGroot;

    #[test]
    fn sessions_of_one_batch_get_what_each_would_get_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("tiny");
        crate::write_tiny_policy(&dir, 3).unwrap();
        let groot = Groot::load(&dir, "libero_panda", &GrootOptions::new(&Device::flex())).unwrap();
        let seen = |shade: u8, side: usize| {
            let rgb = vec![shade; side * side * 3];
            let camera = |name: &str| Camera { name: name.into(), height: side, width: side, rgb: rgb.clone() };
            Observation { cameras: vec![camera("image"), camera("wrist_image")], proprio: vec![0.01; 8] }
        };
        let words = ["open the drawer", "close it", "close it"];
        let all = [seen(40, 56), seen(90, 56), seen(120, 56)];
        let (mut one, mut two) = (groot.clone(), groot.clone());
        let mut joint = JointGroot::new(groot);
        let places = [(7, 0), (9, 0), (9, 1)].map(|(session, row)| Place { session, row });
        let alone = |groot: &mut Groot, seen: &[Observation], words: &[&str]| Policy::act(groot, seen, words).unwrap();
        let close = |got: &[f32], want: &[f32]| {
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-3), "{got:?} instead of {want:?}");
        };
        for round in 0..3 {
            if round == 2 {
                joint.forget(9);
                Policy::reset(&mut two);
            }
            let expected = [alone(&mut one, &all[..1], &words[..1]), alone(&mut two, &all[1..], &words[1..])];
            close(&joint.act(&places, &all, &words).unwrap(), &expected.concat());
        }
        // Images of two sizes are no batch; nothing is remembered of having tried.
        let mixed = [seen(40, 56), seen(90, 84)];
        assert!(joint.act(&places[..2], &mixed, &words[..2]).is_err());
        close(&joint.act(&places[..1], &all[..1], &words[..1]).unwrap(), &alone(&mut one, &all[..1], &words[..1]));
    }
}
