//! Stage 1 against reference numbers: the fixtures `stage1_v2` and `stage1_action_vae`, of any size.
//!
//! What is in them is described in `docs/formats.md`; `scripts/stage1_fixture.py` writes more of them.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::json;
use w2a_nn::{
    AdamW, AdamWConfig, Array, Fixture, Init, NamedGradients, NnError, StateDict, Tolerance, load_state,
    named_gradients, state_dict, tensor, values,
};

use crate::train::{AlignBatch, align_loss};
use crate::vae::{VaeBatch, VaeTerms, vae_loss};
use crate::{
    ActionVae, AdapterConfig, AdapterKind, LossConfig, MlpAdapters, Pooling, Similarity, VaeConfig, action_vae,
};

/// Updates in a fixture: the length of its curve of losses, of which there is one per update.
fn count_updates(fixture: &Fixture, curve: &str) -> usize {
    fixture.shape("io", curve).and_then(|shape| shape.first().copied()).unwrap_or(0)
}

/// The optimiser of a fixture and its learning rate; settings that are built in are checked.
fn optimiser(fixture: &Fixture) -> Result<(AdamWConfig, f32), NnError> {
    fixture.only("gelu", &json!("erf"))?;
    fixture.only("groupnorm_eps", &json!(1e-5))?;
    fixture.only("optimizer.name", &json!("AdamW"))?;
    let config = AdamWConfig {
        beta1: fixture.number("optimizer.betas.0")?,
        beta2: fixture.number("optimizer.betas.1")?,
        eps: fixture.number("optimizer.eps")?,
        weight_decay: fixture.number("optimizer.weight_decay")?,
        clip_norm: fixture.number("optimizer.grad_clip_norm")?,
    };
    Ok((config, fixture.number("optimizer.lr")?))
}

/// What a few updates left behind.
struct Trained {
    /// Unclipped gradients of the first update.
    gradients: NamedGradients,
    losses: Vec<f32>,
    norms: Vec<f32>,
    after: StateDict,
}

/// A few updates of `net` on the same batch; `loss` gets the number of the update.
fn updates<M: Module>(
    mut net: M,
    (config, lr): (AdamWConfig, f32),
    count: usize,
    mut loss: impl FnMut(&M, usize) -> Result<Tensor<1>, NnError>,
) -> Result<Trained, NnError> {
    let mut adam = AdamW::new(config);
    let mut out = Trained { gradients: NamedGradients::new(), losses: vec![], norms: vec![], after: StateDict::new() };
    for step in 0..count {
        let total = loss(&net, step)?;
        out.losses.extend(values(total.clone())?);
        let gradients = named_gradients(&net, &total.backward())?;
        if step == 0 {
            out.gradients = gradients.clone();
        }
        let (updated, norm) = adam.step(net, gradients, lr)?;
        net = updated;
        out.norms.push(norm);
    }
    out.after = state_dict(&net)?;
    Ok(out)
}

/// Compares what the updates left with a train file; `rename` gives the fixture's name of a parameter of ours.
fn compare_updates(
    fixture: &mut Fixture,
    file: &str,
    io_prefix: &str,
    lr: f32,
    trained: &Trained,
    rename: impl Fn(&str) -> String,
) -> Result<(), NnError> {
    fixture.compare("io", &format!("{io_prefix}loss_per_step"), &trained.losses, Tolerance::ACTIVATION)?;
    fixture.compare("io", &format!("{io_prefix}grad_norm_per_step"), &trained.norms, Tolerance::ACTIVATION)?;
    for (name, gradient) in &trained.gradients {
        fixture.compare(file, &format!("grad.{}", rename(name)), gradient, Tolerance::GRADIENT)?;
    }
    for (name, Array { data, .. }) in &trained.after {
        let count = trained.losses.len();
        let name = format!("after{count}.{}", rename(name));
        fixture.compare(file, &name, data, Tolerance::parameters(lr, count))?;
    }
    Ok(())
}

/// Our name of each parameter of the fixture `stage1_v2`: the place in its `nn.Sequential` against our field.
const V2_NAMES: [(&str, &str); 11] = [
    ("video_bridger.0", "video.conv1"),
    ("video_bridger.1", "video.norm1"),
    ("video_bridger.3", "video.conv2"),
    ("video_bridger.4", "video.norm2"),
    ("video_bridger.8", "video.out"),
    ("action_encoder.0", "encoder.layer1"),
    ("action_encoder.2", "encoder.layer2"),
    ("action_encoder.4", "encoder.layer3"),
    ("action_decoder.0", "decoder.layer1"),
    ("action_decoder.2", "decoder.layer2"),
    ("action_decoder.4", "decoder.layer3"),
];

fn renamed(name: &str, pairs: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let mut pairs = pairs.filter_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    pairs.next().unwrap_or_else(|| name.to_owned())
}

/// The paper's adapters and loss: component `stage1_v2`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn stage1_v2(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let device = device.clone().autodiff();
    let optimiser = optimiser(fixture)?;
    let size = |key: &str| fixture.size(key);
    let (batch, chunks, steps, width) = (size("batch")?, size("num_chunks")?, size("chunk_len")?, size("action_dim")?);
    let (dim, channels) = (size("latent_dim")?, size("video_channels")?);
    let (height, columns) = (size("latent_hw.0")?, size("latent_hw.1")?);
    let temperature = fixture.number("temperature")?;
    let weights = fixture.weights()?.into_iter();
    let weights: StateDict = weights.map(|(name, array)| (renamed(&name, V2_NAMES.into_iter()), array)).collect();
    let theirs = |name: &str| renamed(name, V2_NAMES.into_iter().map(|(theirs, ours)| (ours, theirs)));
    let actions = fixture.input("io", "actions", &[batch, chunks, steps, width])?;
    let latents = fixture.input("io", "video_latents", &[batch, channels, chunks, height, columns])?;
    let rows = batch * chunks;
    let latents = frames(latents, [batch, channels, chunks, height, columns], &device);
    let actions: Tensor<2> = tensor(actions, [rows, steps * width], &device);

    let config = AdapterConfig { kind: AdapterKind::Mlp, dim, pooling: Pooling::Average };
    let mut rng = w2a_data::stream(0, "load");
    let init = &mut Init { rng: &mut rng, device: &device };
    let net = MlpAdapters::new(&config, [channels, height, columns], steps * width, init);
    let net = load_state(net, weights)?;
    for (variant, similarity, v2a, a2v) in [
        ("bidirectional", Similarity::Chunk, 0.5, 0.5),
        ("onedir", Similarity::Chunk, 1.0, 0.0),
        ("global", Similarity::Global, 0.5, 0.5),
    ] {
        let loss =
            LossConfig { temperature, similarity, video_to_action: v2a, action_to_video: a2v, ..LossConfig::paper() };
        let run = |net: &MlpAdapters| {
            let batch = AlignBatch { latents: latents.clone(), actions: actions.clone(), shifts: vec![0; batch] };
            align_loss(net, &loss, batch)
        };
        let terms = run(&net);
        for (name, value) in [("z_video", terms.z_video), ("z_action", terms.z_action), ("recon", terms.decoded)] {
            fixture.compare("io", name, &values(value)?, Tolerance::ACTIVATION)?;
        }
        let mut losses = Vec::new();
        for (_, part) in terms.parts {
            losses.extend(values(part)?);
        }
        let (recon, forward, backward) = (losses[0], losses[1], losses[2]);
        for (name, value) in [
            ("similarity", values(terms.similarity)?),
            ("loss.v2a", vec![forward]),
            ("loss.a2v", vec![backward]),
            ("loss.contrast", vec![v2a * forward + a2v * backward]),
            ("loss.recon", vec![recon]),
            ("loss.total", values(terms.total)?),
        ] {
            fixture.compare("io", &format!("{variant}.{name}"), &value, Tolerance::ACTIVATION)?;
        }
        let count = count_updates(fixture, &format!("{variant}.train.loss_per_step"));
        if count > 0 {
            let trained = updates(net.clone(), optimiser.clone(), count, |net, _| Ok(run(net).total))?;
            let (file, prefix) = (format!("train_{variant}"), format!("{variant}.train."));
            compare_updates(fixture, &file, &prefix, optimiser.1, &trained, theirs)?;
        }
    }
    Ok(())
}

/// The authors' action VAE, its loss and their training step: component `stage1_action_vae`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn stage1_action_vae(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let device = device.clone().autodiff();
    let optimiser = optimiser(fixture)?;
    let size = |key: &str| fixture.size(key);
    let (batch, chunks, steps, width) = (size("batch")?, size("num_chunks")?, size("chunk_len")?, size("action_dim")?);
    let (dim, channels, count, paired) =
        (size("latent_dim")?, size("video_channels")?, size("num_negatives")?, size("t_vid")?);
    let (height, columns) = (size("latent_hw.0")?, size("latent_hw.1")?);
    if paired > chunks {
        return Err(NnError::Input {
            what: "t_vid of the parity fixture".into(),
            expected: format!("at most num_chunks = {chunks}"),
            got: paired.to_string(),
        });
    }
    let config = VaeConfig {
        temperature: fixture.number("contrast_temperature")?,
        reconstruction: fixture.number("loss_weights.recon")?,
        contrast: fixture.number("loss_weights.contrast")?,
        kl: fixture.number("loss_weights.kl")?,
        negatives: count,
        ..VaeConfig::default()
    };
    let (rows, negative_rows) = (batch * chunks, batch * count * chunks);
    let actions = fixture.input("io", "actions", &[batch, chunks, steps, width])?;
    let negatives = fixture.input("io", "negative_actions", &[batch, count, chunks, steps, width])?;
    let latents = fixture.input("io", "video_latents", &[batch, channels, paired, height, columns])?;
    let latents = frames(latents, [batch, channels, paired, height, columns], &device);
    let actions: Tensor<2> = tensor(actions, [rows, steps * width], &device);
    let negatives: Tensor<2> = tensor(negatives, [negative_rows, steps * width], &device);
    let count_of_updates = count_updates(fixture, "train.loss_per_step");
    let mut noise = Vec::new();
    // The noise of the first update is also that of the recorded forward pass.
    for step in 0..count_of_updates.max(1) {
        let positive = fixture.input("io", &format!("noise.step{step}.pos"), &[rows, dim])?;
        let negative = fixture.input("io", &format!("noise.step{step}.neg"), &[negative_rows, dim])?;
        noise.push([tensor(positive, [rows, dim], &device), tensor(negative, [negative_rows, dim], &device)]);
    }
    let weights = fixture.weights()?;
    let net = load_state(action_vae::empty(dim, channels, [steps, width], &device)?, weights)?;
    // The same weights as the release stores them.
    if fixture.files().any(|file| file == "ckpt") {
        for (name, Array { data, .. }) in state_dict(&net)? {
            fixture.compare("ckpt", &name, &data, Tolerance::EXACT)?;
        }
    }

    let mut layers = Vec::new();
    let z_video = net.video_layers(latents.clone(), |layer, output| layers.push((layer, output.clone())));
    for (layer, output) in layers {
        fixture.compare("io", &format!("act.video_bridger.{layer}"), &values(output)?, Tolerance::ACTIVATION)?;
    }
    fixture.compare("io", "act.video_bridger.8", &values(z_video.clone())?, Tolerance::ACTIVATION)?;
    let run = |net: &ActionVae, z_video: Tensor<2>, step: usize| {
        let [noise, negative_noise] = noise[step].clone();
        let (actions, negatives) = (actions.clone(), negatives.clone());
        vae_loss(net, &config, VaeBatch { z_video, actions, negatives, noise, negative_noise, windows: batch })
    };
    compare_terms(fixture, run(&net, z_video, 0))?;

    if count_of_updates > 0 {
        let trained = updates(net, optimiser.clone(), count_of_updates, |net, step| {
            Ok(run(net, net.video(latents.clone()), step).total)
        })?;
        compare_updates(fixture, "train", "train.", optimiser.1, &trained, str::to_owned)?;
    }
    Ok(())
}

fn compare_terms(fixture: &mut Fixture, terms: VaeTerms) -> Result<(), NnError> {
    for (which, coded) in [("pos", terms.positives), ("neg", terms.negatives)] {
        for (name, value) in
            [("mu", coded.mean), ("logvar", coded.log_variance), ("z", coded.z), ("recon", coded.decoded)]
        {
            fixture.compare("io", &format!("{name}_{which}"), &values(value)?, Tolerance::ACTIVATION)?;
        }
        fixture.compare("io", &format!("loss.recon_{which}"), &values(coded.error)?, Tolerance::ACTIVATION)?;
    }
    fixture.compare("io", "contrast_cosines", &values(terms.cosines)?, Tolerance::ACTIVATION)?;
    for (name, value) in
        [("contrast", terms.contrast), ("kl", terms.kl), ("recon", terms.reconstruction), ("total", terms.total)]
    {
        fixture.compare("io", &format!("loss.{name}"), &values(value)?, Tolerance::ACTIVATION)?;
    }
    Ok(())
}

/// `[B, C, T, H, W]` → `[B·T, C, H, W]`.
fn frames(values: Vec<f32>, [batch, channels, frames, height, width]: [usize; 5], device: &Device) -> Tensor<4> {
    let video: Tensor<5> = tensor(values, [batch, channels, frames, height, width], device);
    video.swap_dims(1, 2).reshape([batch * frames, channels, height, width])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use w2a_nn::{Fixture, NnError};

    use super::{stage1_action_vae, stage1_v2};

    fn holds(name: &str, run: impl Fn(&mut Fixture, &Device) -> Result<(), NnError>) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let mut fixture = Fixture::open(&dir).unwrap();
        assert_eq!(fixture.component(), name);
        run(&mut fixture, &Device::flex()).unwrap();
        let report = fixture.finish();
        assert!(report.holds(), "{report}");
        assert!(!report.to_string().contains("NOT COMPARED"), "{report}");
        assert!(report.counts().0 > 60, "{report}");
    }

    #[test]
    fn the_papers_form_agrees_with_pytorch() {
        holds("stage1_v2", stage1_v2);
    }

    #[test]
    fn the_authors_vae_agrees_with_pytorch() {
        holds("stage1_action_vae", stage1_action_vae);
    }
}
