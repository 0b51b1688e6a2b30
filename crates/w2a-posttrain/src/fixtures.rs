//! Small models and observations for tests.

use burn::tensor::Device;
use w2a_data::{Camera, Normaliser, NormaliserMode, Observation, StatisticsBuilder};
use w2a_nn::{Init, VisionConfig};
use w2a_policy::{MiniPolicy, MiniPolicyConfig, PolicyNet};

/// Side of the cameras' images: the smallest that the residual takes.
pub const SIDE: usize = 40;
/// Width of proprioception and of actions.
pub const PROPRIO: usize = 5;
/// As above.
pub const ACTION: usize = 7;

/// Statistics of two made-up rows.
pub fn normaliser(width: usize) -> Normaliser {
    let mut builder = StatisticsBuilder::new("made up", width);
    let row = |sign: f32| (0..width).map(|at| sign * (1.0 + at as f32)).collect::<Vec<f32>>();
    builder.push(&row(1.0)).unwrap();
    builder.push(&row(-0.5)).unwrap();
    Normaliser::new(&builder.finish().unwrap(), NormaliserMode::MinMax).unwrap()
}

/// A policy with random weights, always the same: two cameras, chunks of four actions.
pub fn policy() -> MiniPolicy {
    let device = Device::flex();
    let init = &mut Init { rng: &mut w2a_data::stream(0, "policy"), device: &device };
    let vision = VisionConfig { patch: 8, channels: 16, keypoints: 4 };
    let config = MiniPolicyConfig { vision, hidden: 32, horizon: 4 };
    let net = PolicyNet::new(&config, 2, PROPRIO, ACTION, init);
    MiniPolicy::new(net, normaliser(PROPRIO), normaliser(ACTION), &device)
}

/// Different observations.
pub fn observations(count: usize) -> Vec<Observation> {
    let camera = |name: &str, shift: usize| Camera {
        name: name.into(),
        height: SIDE,
        width: SIDE,
        rgb: (0..SIDE * SIDE * 3).map(|at| ((at * 37 + shift * 101) % 256) as u8).collect(),
    };
    (0..count)
        .map(|index| Observation {
            cameras: vec![camera("agent", index), camera("wrist", index + 50)],
            proprio: (0..PROPRIO).map(|at| (index * 3 + at) as f32 * 0.1).collect(),
        })
        .collect()
}
