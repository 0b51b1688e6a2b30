//! The three networks and the sampler against reference numbers: the fixtures `cosmos_dit`, `wan_vae` and `t5_encoder`, of
//! any size.

use burn::tensor::{Device, Tensor};
use serde_json::json;
use w2a_nn::{Fixture, NnError, Tolerance, values};

use super::dit::{Dit, DitInput, DitOptions};
use super::names::{self, Weighting};
use super::rope::RopeRatios;
use super::sampler::{Conditions, SamplerConfig, noise, sample};
use super::source::Tensors;
use super::t5::{FeedForward, T5Config, T5Encoder, Tokens, rename};
use super::vae::{Tiling, Vae, VaeConfig};

/// Of the DiT: sums of a hundred terms, through several layers.
const FORWARD: Tolerance = Tolerance { absolute: 5e-5, relative: 0.0, outliers: 0.0 };
/// Of the sampler, whose values grow to hundreds.
const SAMPLER: Tolerance = Tolerance { absolute: 0.0, relative: 1e-4, outliers: 0.0 };
/// Of the text encoder.
const TEXT: Tolerance = Tolerance { absolute: 2e-5, relative: 0.0, outliers: 0.0 };
/// Of noise and its levels, computed in f64 and rounded.
const ROUNDED: Tolerance = Tolerance { absolute: 0.0, relative: 1e-7, outliers: 0.0 };

pub(super) fn incomplete(what: &str, expected: &str) -> NnError {
    NnError::Input {
        what: format!("parity fixture: {what}"),
        expected: expected.into(),
        got: "none, or one with other dimensions".into(),
    }
}

/// The shape of a tensor of the fixture's `io.safetensors`.
pub(super) fn shape<const D: usize>(fixture: &Fixture, name: &str) -> Result<[usize; D], NnError> {
    let found = fixture.shape("io", name).and_then(|shape| shape.try_into().ok());
    found.ok_or_else(|| incomplete(name, &format!("a tensor with {D} dimensions")))
}

fn input<const D: usize>(fixture: &mut Fixture, name: &str, device: &Device) -> Result<Tensor<D>, NnError> {
    let shape = shape(fixture, name)?;
    Ok(w2a_nn::tensor(fixture.input("io", name, &shape)?, shape, device))
}

/// What taps saw, to be compared afterwards.
type Seen = Vec<(String, Vec<f32>)>;

/// Keeps what a tap sees; the first failure to read it is kept in its place.
fn keep(seen: &mut Result<Seen, NnError>, name: String, value: Tensor<1>) {
    if let Ok(all) = seen {
        match values(value) {
            Ok(value) => all.push((name, value)),
            Err(error) => *seen = Err(error),
        }
    }
}

/// What the configuration of a fixture says of its DiT.
///
/// # Errors
/// A configuration that is incomplete, or of a form that was never released.
pub(super) fn dit_options(fixture: &Fixture) -> Result<DitOptions, NnError> {
    for (key, value) in [
        ("use_adaln_lora", json!(true)),
        ("use_crossattn_projection", json!(false)),
        ("pos_emb_cls", json!("rope3d")),
        ("extra_per_block_abs_pos_emb", json!(false)),
        ("rope_enable_fps_modulation", json!(false)),
    ] {
        fixture.only(key, &value)?;
    }
    let ratio = |axis: &str| Ok::<_, NnError>(f64::from(fixture.number(&format!("rope_{axis}_extrapolation_ratio"))?));
    Ok(DitOptions {
        rope: RopeRatios { time: ratio("t")?, height: ratio("h")?, width: ratio("w")? },
        patch: fixture.size("patch_spatial")?,
        patch_frames: fixture.size("patch_temporal")?,
        has_padding_mask: fixture.setting("concat_padding_mask") != Some(&json!(false)),
    })
}

/// The DiT, and its sampler if the fixture has one: component `cosmos_dit`.
///
/// # Errors
/// A fixture that is incomplete, or of a form that was never released.
pub fn cosmos_dit(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let options = dit_options(fixture)?;
    let tensors = Tensors::of_state(fixture.weights()?, |name| names::dit(name, Weighting::Plain, false));
    let dit = Dit::load(&tensors, options, device, |_, _| {})?;
    if fixture.has("io", "fwd.x") {
        forward(fixture, &dit, device)?;
    }
    if fixture.has("io", "sampler.noise") { sampler(fixture, &dit, device) } else { Ok(()) }
}

fn forward(fixture: &mut Fixture, dit: &Dit, device: &Device) -> Result<(), NnError> {
    let x: Tensor<5> = input(fixture, "fwd.x", device)?;
    let [batch, _, _, height, width] = x.dims();
    let padding = if fixture.has("io", "fwd.padding_mask") {
        let [rows, one, tall, wide] = shape(fixture, "fwd.padding_mask")?;
        let mask = fixture.input("io", "fwd.padding_mask", &[rows, one, tall, wide])?;
        let mut small = Vec::with_capacity(batch * height * width);
        for picture in mask.chunks(tall * wide) {
            small.extend(nearest(picture, [tall, wide], [height, width]));
        }
        if small.len() != batch * height * width {
            return Err(incomplete("fwd.padding_mask", "one mask a video"));
        }
        w2a_nn::tensor(small, [batch, 1, height, width], device)
    } else {
        Tensor::zeros([batch, 1, height, width], device)
    };
    let given = DitInput {
        x,
        times: input(fixture, "fwd.timesteps", device)?,
        prompt: input(fixture, "fwd.crossattn_emb", device)?,
        known: input(fixture, "fwd.condition_mask", device)?,
        padding,
    };
    let mut seen = Ok(Seen::new());
    let out = dit.forward(given, &mut |name, value| keep(&mut seen, name.to_owned(), value))?;
    for (name, value) in seen? {
        let head = dit.config().width / dit.config().heads;
        match name.as_str() {
            // The fixture may have either half of an angle's row only once.
            "rope_angles"
                if fixture.shape("io", "fwd.rope_angles").is_some_and(|shape| shape.last() != Some(&head)) =>
            {
                let half: Vec<f32> =
                    value.chunks(head).flat_map(|row| row.get(..head / 2).unwrap_or(row)).copied().collect();
                fixture.compare("io", "fwd.rope_angles", &half, FORWARD)?;
            }
            name => fixture.compare("io", &format!("fwd.{name}"), &value, FORWARD)?,
        }
    }
    fixture.compare("io", "fwd.out", &values(out)?, FORWARD)
}

/// A picture of another size, by the nearest pixel above and to the left, as `torchvision`'s nearest resize.
fn nearest(picture: &[f32], [rows, columns]: [usize; 2], [new_rows, new_columns]: [usize; 2]) -> Vec<f32> {
    let from = |index: usize, old: usize, new: usize| {
        ((index as f32 * (old as f32 / new as f32)) as usize).min(old.saturating_sub(1))
    };
    let pixel = |row: usize, column: usize| {
        picture
            .get(from(row, rows, new_rows) * columns + from(column, columns, new_columns))
            .copied()
            .unwrap_or_default()
    };
    (0..new_rows).flat_map(|row| (0..new_columns).map(move |column| pixel(row, column))).collect()
}

fn sampler(fixture: &mut Fixture, dit: &Dit, device: &Device) -> Result<(), NnError> {
    let number = |key: &str| fixture.number(&format!("sampler.{key}"));
    // As f64, because the solver computes so.
    let exact = |key: &str| {
        let value = fixture.setting(&format!("sampler.{key}")).and_then(serde_json::Value::as_f64);
        value.ok_or_else(|| incomplete(&format!("sampler.{key} in config.json"), "a number"))
    };
    let config = SamplerConfig {
        steps: fixture.size("sampler.num_steps")?,
        sigma_max: exact("sigma_max")?,
        sigma_min: exact("sigma_min")?,
        rho: exact("rho")?,
        guidance: number("guidance")?,
        sigma_conditional: number("sigma_conditional")?,
    };
    let frames_known = number("num_conditional_latent_frames")? as usize;
    let seed = fixture.setting("sampler.noise_seed").and_then(serde_json::Value::as_u64);
    let [batch, channels, frames, height, width] = shape(fixture, "sampler.noise")?;
    if batch != 1 {
        return Err(incomplete("sampler.noise", "noise of one video"));
    }
    let shape = [channels, frames, height, width];
    let given = fixture.input("io", "sampler.noise", &[1, channels, frames, height, width])?;
    let known = fixture.input("io", "sampler.gt_latents", &[1, channels, frames, height, width])?;
    if let Some(seed) = seed.and_then(|seed| u32::try_from(seed).ok()) {
        fixture.compare("io", "sampler.noise", &noise(seed, shape), ROUNDED)?;
    }
    let sigmas: Vec<f32> = config.sigmas().iter().map(|sigma| *sigma as f32).collect();
    fixture.compare("io", "sampler.sigmas", &sigmas, ROUNDED)?;
    fixture.compare("sigmas_f64", "sampler.sigmas_f64", &sigmas, ROUNDED)?;
    let prompt: Tensor<3> = input(fixture, "sampler.crossattn_emb", device)?;
    let negative = match fixture.has("io", "sampler.crossattn_emb_negative") {
        true => input(fixture, "sampler.crossattn_emb_negative", device)?,
        false => prompt.clone().zeros_like(),
    };
    let conditions = Conditions { shape, known: &known, frames_known, prompt, negative };
    let mut seen = Seen::new();
    let out = sample(dit, &config, &conditions, &given, device, |found| {
        for (name, value) in
            [("x", found.x), ("x0_cond", found.conditional), ("x0_uncond", found.unconditional), ("x0", found.x0)]
        {
            seen.push((format!("sampler.step{}.{name}", found.step), value.to_vec()));
        }
    })?;
    for (name, value) in seen {
        fixture.compare("io", &name, &value, SAMPLER)?;
    }
    fixture.compare("io", "sampler.final", &out, SAMPLER)
}

/// The video autoencoder: component `wan_vae`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn wan_vae(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    // With attention elsewhere the reference does not run.
    fixture.only("attn_scales", &json!([]))?;
    let list = |key: &str| -> Result<Vec<&serde_json::Value>, NnError> {
        let found = fixture.setting(key).and_then(|value| value.as_array());
        found.map(|list| list.iter().collect()).ok_or_else(|| incomplete(&format!("{key} in config.json"), "a list"))
    };
    let wrong = |key: &str| incomplete(&format!("{key} in config.json"), "numbers or flags");
    let multiples: Option<Vec<usize>> =
        list("dim_mult")?.into_iter().map(|value| value.as_u64().map(|n| n as usize)).collect();
    let halves_time: Option<Vec<bool>> =
        list("temperal_downsample")?.into_iter().map(serde_json::Value::as_bool).collect();
    let frames: Option<Vec<usize>> =
        list("frames")?.into_iter().map(|value| value.as_u64().map(|n| n as usize)).collect();
    let frames = frames.ok_or_else(|| wrong("frames"))?;
    let channels = fixture.size("z_dim")?;
    let window = fixture.size("temporal_window")?;
    let (width, blocks) = (fixture.size("dim")?, fixture.size("num_res_blocks")?);
    let config = VaeConfig {
        width,
        channels,
        multiples: multiples.ok_or_else(|| wrong("dim_mult"))?,
        blocks,
        halves_time: halves_time.ok_or_else(|| wrong("temperal_downsample"))?,
        mean: fixture.input("io", "latents_mean", &[channels])?,
        std: fixture.input("io", "latents_std", &[channels])?,
        window,
    };
    let tensors = Tensors::of_state(fixture.weights()?, |name| names::vae(name, blocks));
    let vae = Vae::load(&tensors, config, device)?;
    // The layers are those of the first run whose second piece is as long as theirs.
    let second = fixture.shape("layers", "encoder.conv1.call1").and_then(|shape| shape.get(2).copied());
    let layers_of =
        frames.iter().copied().find(|count| second.is_none_or(|len| count.saturating_sub(1).min(window) == len));
    for count in frames {
        whole(fixture, &vae, &format!("f{count}"), layers_of == Some(count), device)?;
    }
    if fixture.has("io", "f1.latent") {
        first_frame(fixture, &vae)?;
    }
    if fixture.has("io", "tiled.video") { in_tiles(fixture, vae) } else { Ok(()) }
}

/// A video in tiles, as diffusers encodes and decodes it.
fn in_tiles(fixture: &mut Fixture, vae: Vae) -> Result<(), NnError> {
    let side = |key: &str| fixture.size(&format!("tiles.{key}"));
    let tiling = Tiling { size: [side("size.0")?, side("size.1")?], stride: [side("stride.0")?, side("stride.1")?] };
    let vae = vae.with_tiling(Some(tiling))?;
    let [_, _, frames, rows, columns] = shape(fixture, "tiled.video")?;
    let video = fixture.input("io", "tiled.video", &[1, 3, frames, rows, columns])?;
    let latent = vae.encode(frames, [rows, columns], pieces(video, frames))?;
    fixture.compare("io", "tiled.latent", &latent, FORWARD)?;
    let [batch, channels, count, height, width] = shape(fixture, "tiled.random_latent")?;
    let random = fixture.input("io", "tiled.random_latent", &[batch, channels, count, height, width])?;
    let mut decoded = Vec::new();
    vae.decode(&random, [count, height, width], |piece| {
        decoded.push(piece);
        Ok(())
    })?;
    // Diffusers cuts what is beyond the range of colours.
    let decoded: Vec<f32> = joined(&decoded).into_iter().map(|value| value.clamp(-1.0, 1.0)).collect();
    fixture.compare("io", "tiled.decode_random", &decoded, FORWARD)
}

/// The frames of a video `[1, 3, frames, rows, columns]` in pieces.
fn pieces(video: Vec<f32>, frames: usize) -> impl FnMut(std::ops::Range<usize>) -> Vec<f32> {
    move |range| {
        let channel = (video.len() / 3).max(1);
        let frame = channel / frames.max(1);
        video
            .chunks(channel)
            .flat_map(|all| all.get(range.start * frame..range.end * frame).unwrap_or_default())
            .copied()
            .collect()
    }
}

/// Puts pieces `[3, n, rows, columns]` together to `[3, frames, rows, columns]`.
fn joined(pieces: &[Vec<f32>]) -> Vec<f32> {
    (0..3)
        .flat_map(|channel| pieces.iter().map(move |piece| piece.chunks((piece.len() / 3).max(1)).nth(channel)))
        .flatten()
        .flatten()
        .copied()
        .collect()
}

fn whole(fixture: &mut Fixture, vae: &Vae, run: &str, has_layers: bool, device: &Device) -> Result<(), NnError> {
    let name = |part: &str| format!("{run}.{part}");
    let [batch, three, frames, rows, columns] = shape(fixture, &name("video"))?;
    if batch != 1 || three != 3 {
        return Err(incomplete(&name("video"), "one video of three colours"));
    }
    let video = fixture.input("io", &name("video"), &[1, 3, frames, rows, columns])?;
    let (mut layers, mut chunks) = (Ok(Seen::new()), Ok(Seen::new()));
    let raw = vae.encode_raw(
        frames,
        [rows, columns],
        &mut pieces(video.clone(), frames),
        has_layers.then_some(&mut |name, value| keep(&mut layers, name.to_owned(), value)),
        &mut |piece| {
            let index = chunks.as_ref().map_or(0, Vec::len);
            keep(&mut chunks, format!("encoder_chunk{index}"), piece.clone().flatten(0, -1));
        },
    )?;
    for (part, value) in chunks? {
        fixture.compare("io", &name(&part), &value, FORWARD)?;
    }
    fixture.compare("io", &name("mu"), &values(vae.means(raw)?)?, FORWARD)?;
    let latent = vae.encode(frames, [rows, columns], pieces(video, frames))?;
    fixture.compare("io", &name("latent"), &latent, FORWARD)?;

    let scale = vae.config().scale();
    let count = 1 + (frames - 1) / vae.config().frames_per_latent();
    let size = [count, rows / scale, columns / scale];
    let decode = |latents: &[f32], seen: &mut Result<Seen, NnError>| {
        let mut out = Vec::new();
        let mut tap = |name: &str, value: Tensor<1>| keep(seen, name.to_owned(), value);
        vae.decode_tapped(latents, size, Some(&mut tap), |piece| {
            out.push(piece);
            Ok(())
        })?;
        Ok::<_, NnError>(joined(&out))
    };
    let mut unseen = Ok(Seen::new());
    let seen = if has_layers { &mut layers } else { &mut unseen };
    fixture.compare("io", &name("recon"), &decode(&latent, seen)?, FORWARD)?;
    for (layer, value) in layers? {
        fixture.compare("layers", &layer, &value, FORWARD)?;
    }
    if fixture.has("io", &name("random_latent")) {
        let random: Tensor<5> = input(fixture, &name("random_latent"), device)?;
        let decoded = decode(&values(random)?, &mut Ok(Seen::new()))?;
        fixture.compare("io", &name("decode_random"), &decoded, FORWARD)?;
    }
    Ok(())
}

/// The first frame of one of the videos, alone. The fixture does not say of which: it is the one that comes nearest.
fn first_frame(fixture: &mut Fixture, vae: &Vae) -> Result<(), NnError> {
    let want: [usize; 5] = shape(fixture, "f1.latent")?;
    let want = fixture.input("io", "f1.latent", &want)?;
    let distance = |latent: &[f32]| want.iter().zip(latent).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let mut nearest: Option<(Vec<f32>, [usize; 2])> = None;
    for name in fixture.names("io").into_iter().filter(|name| name.ends_with(".video")) {
        let [_, _, frames, rows, columns] = shape(fixture, &name)?;
        let video = fixture.input("io", &name, &[1, 3, frames, rows, columns])?;
        let latent = vae.encode(1, [rows, columns], pieces(video, frames))?;
        if nearest.as_ref().is_none_or(|(best, _)| distance(&latent) < distance(best)) {
            nearest = Some((latent, [rows, columns]));
        }
    }
    let (latent, [rows, columns]) = nearest.ok_or_else(|| incomplete("f1.latent", "a video"))?;
    fixture.compare("io", "f1.latent", &latent, FORWARD)?;
    let scale = vae.config().scale();
    let mut out = Vec::new();
    vae.decode(&latent, [1, rows / scale, columns / scale], |piece| {
        out.push(piece);
        Ok(())
    })?;
    fixture.compare("io", "f1.recon", &joined(&out), FORWARD)
}

/// The text encoder: components `t5_encoder` and `t5_encoder_v10_relu`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn t5_encoder(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let feed_forward_proj = match fixture.setting("feed_forward_proj").and_then(serde_json::Value::as_str) {
        Some("relu") => FeedForward::Relu,
        Some("gated-gelu") => FeedForward::GatedGelu,
        _ => return Err(incomplete("feed_forward_proj in config.json", "\"relu\" or \"gated-gelu\"")),
    };
    let config = T5Config {
        vocab_size: fixture.size("vocab_size")?,
        d_model: fixture.size("d_model")?,
        d_kv: fixture.size("d_kv")?,
        d_ff: fixture.size("d_ff")?,
        num_layers: fixture.size("num_layers")?,
        num_heads: fixture.size("num_heads")?,
        relative_attention_num_buckets: fixture.size("relative_attention_num_buckets")?,
        relative_attention_max_distance: fixture.size("relative_attention_max_distance")?,
        layer_norm_epsilon: f64::from(fixture.number("layer_norm_epsilon")?),
        feed_forward_proj,
    };
    let width = config.d_model;
    let tensors = Tensors::of_state(fixture.weights()?, rename);
    let [prompts, words] = shape(fixture, "input_ids")?;
    let ids: Vec<u32> = fixture.input("io", "input_ids", &[prompts, words])?.into_iter().map(|id| id as u32).collect();
    let mask = fixture.input("io", "attention_mask", &[prompts, words])?;
    let mask: Vec<bool> = mask.into_iter().map(|keep| keep != 0.0).collect();
    let encoder = T5Encoder::new(&tensors, config, device)?;
    fixture.compare("io", "position_bias", &values(encoder.position_bias(words)?)?, TEXT)?;
    let without = Tokens { ids, words, mask: None };
    let with = Tokens { mask: Some(mask.clone()), ..without.clone() };
    let mut seen = Ok(Seen::new());
    let out = encoder.encode(&[with, without], |_, _| {}, &mut |batch, name, value| {
        if batch == 0 {
            keep(&mut seen, name.to_owned(), value.flatten(0, -1));
        }
    })?;
    let [masked, unmasked] = <[Tensor<3>; 2]>::try_from(out).map_err(|_| incomplete("input_ids", "prompts"))?;
    // What becomes of padding is of no use, and zero in the fixture.
    let zeroed = |mut value: Vec<f32>| {
        for (row, keep) in value.chunks_mut(width).zip(&mask) {
            if !keep {
                row.fill(0.0);
            }
        }
        value
    };
    for (name, value) in seen? {
        fixture.compare("io", &name, &zeroed(value), TEXT)?;
    }
    let masked = zeroed(values(masked)?);
    fixture.compare("io", "last_hidden_state", &masked, TEXT)?;
    fixture.compare("io", "embeddings_zeroed", &masked, TEXT)?;
    fixture.compare("io", "unmasked.last_hidden_state", &values(unmasked)?, TEXT)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use w2a_nn::{Fixture, NnError};

    use super::{cosmos_dit, nearest, t5_encoder, wan_vae};

    fn holds(name: &str, run: impl Fn(&mut Fixture, &Device) -> Result<(), NnError>, at_least: usize) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let mut fixture = Fixture::open(&dir).unwrap();
        assert_eq!(fixture.component(), name);
        run(&mut fixture, &Device::flex()).unwrap();
        let report = fixture.finish();
        assert!(report.holds(), "{report}");
        assert!(!report.to_string().contains("NOT COMPARED"), "{report}");
        assert!(report.counts().0 >= at_least, "{report}");
    }

    #[test]
    fn the_dit_and_its_sampler_agree_with_pytorch() {
        holds("cosmos_dit", cosmos_dit, 38);
    }

    #[test]
    fn the_video_autoencoder_agrees_with_pytorch() {
        holds("wan_vae", wan_vae, 80);
    }

    #[test]
    fn tiles_agree_with_diffusers() {
        holds("wan_vae_tiled", wan_vae, 2);
    }

    #[test]
    fn the_text_encoder_agrees_with_pytorch_in_both_forms() {
        holds("t5_encoder", t5_encoder, 7);
        holds("t5_encoder_v10_relu", t5_encoder, 6);
    }

    #[test]
    fn masks_are_resized_by_the_nearest_pixel() {
        let picture: Vec<f32> = (0..15).map(|value| value as f32).collect();
        assert_eq!(nearest(&picture, [3, 5], [2, 2]), [0.0, 2.0, 5.0, 7.0]);
        assert_eq!(nearest(&picture, [3, 5], [3, 5]), picture);
    }
}
