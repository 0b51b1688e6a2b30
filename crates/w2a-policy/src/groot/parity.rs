//! GR00T-N1.6 against reference numbers: the fixtures `gr00t_preprocess`, `gr00t_vlm` and `gr00t_action_head`, of any size.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use w2a_nn::{Array, Fixture, NnError, Tolerance, named_gradients, tensor, values};

use super::action_head::{ActionHead, FlowTarget, HeadConfig, STEP, bucket_of, rows_of};
use super::backbone::{Backbone, BackboneConfig, BackboneValue, Features, Patches, TokenBatch};
use super::category::Embodiments;
use super::image::{ImageConfig, Rgb, normalised, patches, smart_resize};
use super::modality::{EmbodimentStatistics, Modalities, NormalisationConfig};
use super::normalise::{Keyed, Normalisation};
use super::prompt::formalised;
use super::source::Weights;
use super::wrong;

const HEAD: Tolerance = Tolerance { absolute: 2e-5, relative: 0.0, outliers: 0.0 };
const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0, outliers: 0.0 };
const BACKBONE: Tolerance = Tolerance { absolute: 5e-5, relative: 0.0, outliers: 0.0 };
const NUMBERS: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0, outliers: 0.0 };

/// A part of the fixture's configuration, or all of it for an empty key.
fn setting<T: DeserializeOwned>(fixture: &Fixture, key: &str) -> Result<T, NnError> {
    let value = if key.is_empty() { Some(fixture.config()) } else { fixture.setting(key) };
    let value = value.cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|error| {
        wrong(format!("{key:?} in the fixture's config.json"), "the settings of this component", error.to_string())
    })
}

/// A tensor of whole numbers or marks, of any shape.
fn whole(fixture: &mut Fixture, name: &str) -> Result<(Vec<usize>, Vec<usize>), NnError> {
    let shape = shape(fixture, "io", name)?;
    let data = fixture.input("io", name, &shape)?;
    Ok((shape, data.into_iter().map(|value| value as usize).collect()))
}

fn shape(fixture: &Fixture, file: &str, name: &str) -> Result<Vec<usize>, NnError> {
    let shape = fixture.shape(file, name).map(<[usize]>::to_vec);
    shape.ok_or_else(|| wrong("parity fixture", format!("a tensor {name:?} in {file}.safetensors"), "none"))
}

fn floats(fixture: &mut Fixture, name: &str, device: &Device) -> Result<Tensor<3>, NnError> {
    let shape = shape(fixture, "io", name)?;
    let data = fixture.input("io", name, &shape)?;
    let &[a, b, c] = shape.as_slice() else {
        return Err(wrong(format!("io/{name} of the fixture"), "three dimensions", format!("{shape:?}")));
    };
    Ok(tensor(data, [a, b, c], device))
}

/// The action head: denoising with the recorded noise, the loss, and its gradients. Component `gr00t_action_head`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn gr00t_action_head(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let device = device.clone().autodiff();
    let config: HeadConfig = setting(fixture, "")?;
    let weights = Weights::of_state(fixture.weights()?, &device);
    let head = ActionHead::load(&weights, &config, Embodiments::All)?;
    let (_, embodiments) = whole(fixture, "embodiment_id")?;
    if let Some(id) = embodiments.iter().find(|id| **id >= config.max_num_embodiments) {
        return Err(wrong("io/embodiment_id", format!("below {}", config.max_num_embodiments), id.to_string()));
    }
    let rows = rows_of(&embodiments, &device);
    let marks = |values: Vec<usize>| values.into_iter().map(|value| value != 0).collect::<Vec<bool>>();
    let is_token = marks(whole(fixture, "backbone_attention_mask")?.1);
    let is_image = marks(whole(fixture, "image_mask")?.1);
    let input = floats(fixture, "backbone_features", &device)?.require_grad();
    let [batch, tokens, _] = input.dims();
    let marked = batch * tokens;
    if embodiments.len() != batch || is_token.len() != marked || is_image.len() != marked {
        return Err(wrong("masks and embodiment_id of the fixture", format!("{batch} x {tokens}"), "another size"));
    }
    let features = head.normalised(Features { values: input.clone(), is_token, is_image });
    fixture.compare("io", "vl_embeds", &values(features.values.clone())?, HEAD)?;
    let context = head.context(&features);
    let state = head.state_tokens(floats(fixture, "state", &device)?, &rows);
    fixture.compare("io", "state_features", &values(state.clone())?, HEAD)?;
    let noise = floats(fixture, "noise", &device)?;
    let mut taken = Vec::new();
    let mut tap = |name: &'static str, layer: usize, x: &Tensor<3>| {
        let (step, layer) = (layer / STEP, layer % STEP);
        let name = if name == "block" { format!("step{step}.block.{layer}") } else { format!("step{step}.{name}") };
        taken.push((name, x.clone()));
    };
    let action = head.denoise(noise, state.clone(), &head.schedule(&config), &context, &rows, &mut tap);
    taken.push(("action_pred".into(), action));
    for (name, value) in taken {
        fixture.compare("io", &name, &values(value)?, HEAD)?;
    }
    if fixture.has("io", "train.action") {
        let times = fixture.input("io", "train.t", &[batch])?;
        let buckets: Vec<f32> = times.iter().map(|time| bucket_of(*time, &config) as f32).collect();
        fixture.compare("io", "train.t_discretized", &buckets, Tolerance::EXACT)?;
        let target = FlowTarget {
            action: floats(fixture, "train.action", &device)?,
            mask: floats(fixture, "train.action_mask", &device)?,
            noise: floats(fixture, "train.noise", &device)?,
            times,
        };
        let (loss, parts) = head.loss(state, &target, &context, &rows, &config)?;
        fixture.compare("io", "train.action_loss", &values(parts)?, HEAD)?;
        fixture.compare("io", "train.loss", &values(loss.clone())?, HEAD)?;
        let gradients = loss.backward();
        if let Some(gradient) = input.grad(&gradients) {
            fixture.compare("io", "grad_input.backbone_features", &values(gradient)?, GRADIENT)?;
        }
        for (name, gradient) in named_gradients(&head, &gradients)? {
            fixture.compare("io", &format!("grad.action_head.{}", checkpoint_name(&name)), &gradient, GRADIENT)?;
        }
    }
    Ok(())
}

/// The checkpoint's name, below `action_head.`, of a parameter of [`ActionHead`].
fn checkpoint_name(ours: &str) -> String {
    let mut name = ours.replace(".ff.proj.", ".ff.net.0.proj.").replace(".ff.out.", ".ff.net.2.");
    name = name.replace(".attn1.to_out.", ".attn1.to_out.0.");
    for number in ["1", "2", "3"] {
        name = name.replace(&format!("action_encoder.w{number}."), &format!("action_encoder.W{number}."));
    }
    match name.strip_suffix(".w") {
        Some(start) => format!("{start}.W"),
        None if name == "position_embedding" => "position_embedding.weight".into(),
        None => name,
    }
}

/// The vision-language backbone. Component `gr00t_vlm`.
///
/// # Errors
/// A fixture that is incomplete or of sizes that contradict each other.
pub fn gr00t_vlm(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let mut config: BackboneConfig = setting(fixture, "")?;
    config.select_layer = fixture.size("select_layer")?;
    let patch = config.vision_config.patch_size;
    let weights = Arc::new(Weights::of_state(fixture.weights()?, device));
    let backbone = Backbone::load(weights, &config)?;
    let (shape, ids) = whole(fixture, "input_ids")?;
    let is_token: Vec<bool> = whole(fixture, "attention_mask")?.1.into_iter().map(|value| value != 0).collect();
    let &[batch, tokens] = shape.as_slice() else {
        return Err(wrong("io/input_ids of the fixture", "two dimensions", format!("{shape:?}")));
    };
    let mut images = Vec::new();
    while let Some(&[3, height, width]) = fixture.shape("io", &format!("image{}.pixel_values", images.len())) {
        let name = format!("image{}", images.len());
        let pixels = fixture.input("io", &format!("{name}.pixel_values"), &[3, height, width])?;
        let cut = patches(height, width, patch, |y, x, channel| pixels[(channel * height + y) * width + x]);
        fixture.compare("io", &format!("{name}.patches"), &cut, Tolerance::EXACT)?;
        images.push(Patches { grid: [height / patch, width / patch], values: cut });
    }
    let mut taken: Vec<(BackboneValue, Tensor<3>)> = Vec::new();
    let mut tap = |value: BackboneValue, x: &Tensor<3>| taken.push((value, x.clone()));
    let features = backbone.forward(&TokenBatch { batch, ids, is_token }, &images, &mut tap)?;
    let mark: Vec<f32> = features.is_image.iter().map(|is_image| f32::from(u8::from(*is_image))).collect();
    fixture.compare("io", "image_mask", &mark, Tolerance::EXACT)?;
    // The file has zeros where the reference's numbers depend on its form of attention.
    let visible = features.is_token.iter().map(|is_token| f32::from(u8::from(*is_token))).collect();
    let visible: Tensor<3> = tensor(visible, [batch, tokens, 1], device);
    for (value, x) in taken {
        let (name, x) = match value {
            BackboneValue::Image(image, "layer", layer) => (format!("image{image}.layer.{layer}"), x),
            BackboneValue::Image(image, name, _) => (format!("image{image}.{name}"), x),
            BackboneValue::InputEmbeds => ("input_embeds".into(), x),
            BackboneValue::Layer(layer) => (format!("llm.layer.{layer}"), x * visible.clone()),
        };
        fixture.compare("io", &name, &values(x)?, BACKBONE)?;
    }
    fixture.compare("io", "backbone_features", &values(features.values * visible)?, BACKBONE)
}

/// Images, state and action normalisation, instructions. Component `gr00t_preprocess`.
///
/// # Errors
/// A fixture that is incomplete, or an instruction or image size that comes out otherwise than its configuration says: those
/// are no tensors, and have no line in the report.
pub fn gr00t_preprocess(fixture: &mut Fixture, _: &Device) -> Result<(), NnError> {
    let image: Value = setting(fixture, "image")?;
    let config = ImageConfig {
        shortest_edge: fixture.size("image.shortest_image_edge")?,
        crop_fraction: setting(fixture, "image.crop_fraction")?,
        letterbox: false,
    };
    config.validate()?;
    let mut done = BTreeMap::new();
    for case in image.get("cases").and_then(Value::as_array).into_iter().flatten() {
        let case: ImageCase = serde_json::from_value(case.clone()).map_err(|error| {
            wrong("image.cases in the fixture's config.json", "file, kind, height, width, seed", error.to_string())
        })?;
        let (name, seen) = check_image(fixture, &config, &case)?;
        done.insert(name, seen);
    }
    for size in image.get("smart_resize_cases").and_then(Value::as_array).into_iter().flatten() {
        let number = |value: &Value| value.as_u64().map_or(0, |number| number as usize);
        let (height, width) = (number(&size["height"]), number(&size["width"]));
        let got = smart_resize(height, width)?;
        if (got.0, got.1) != (number(&size["out"][0]), number(&size["out"][1])) {
            return Err(wrong(
                format!("smart_resize of {height} x {width}"),
                size["out"].to_string(),
                format!("{got:?}"),
            ));
        }
    }
    for (index, pair) in setting::<Vec<Value>>(fixture, "formalize_language")?.iter().enumerate() {
        let text = |key: &str| pair[key].as_str().unwrap_or_default().to_owned();
        let got = formalised(&text("text"));
        if got != text("out") {
            return Err(wrong(format!("formalize_language.{index}"), format!("{:?}", text("out")), format!("{got:?}")));
        }
    }
    for name in fixture.names("images_normalised") {
        // Named after the image; a corner of what the model sees.
        let stem = format!("image_{}", name.rsplit('.').next().unwrap_or_default());
        let Some(pixels) = done.get(&stem) else { continue };
        let &[3, height, width] = shape(fixture, "images_normalised", &name)?.as_slice() else { continue };
        if height > pixels.height || width > pixels.width {
            return Err(wrong(name, "a corner of the image", format!("{height} x {width}")));
        }
        let mut corner = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            for y in 0..height {
                corner.extend((0..width).map(|x| normalised(pixels.data[(y * pixels.width + x) * 3 + channel])));
            }
        }
        fixture.compare("images_normalised", &name, &corner, Tolerance::EXACT)?;
    }
    check_normalisation(fixture)
}

/// An image of the fixture.
#[derive(Clone, Debug, serde::Deserialize)]
struct ImageCase {
    file: String,
    kind: String,
    height: usize,
    width: usize,
    seed: u32,
    letterbox: bool,
    input_sha256: String,
}

impl ImageCase {
    /// The image, made by the recipe in the fixture's configuration.
    fn generate(&self) -> Result<Rgb, NnError> {
        let (height, width) = (self.height, self.width);
        if !(1..=4096).contains(&height) || !(1..=4096).contains(&width) {
            return Err(wrong(self.file.clone(), "sides from 1 to 4096", format!("{height} x {width}")));
        }
        let mut data = Vec::with_capacity(height * width * 3);
        let mut state = self.seed;
        let share = |part: usize, whole: usize| (part * 255 / whole.max(1)) as u8;
        for y in 0..height {
            for x in 0..width {
                match self.kind.as_str() {
                    "lcg" => data.extend((0..3).map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 24) as u8
                    })),
                    _ => {
                        let base = [share(y, height - 1), share(x, width - 1), share(x + y, height + width - 2)];
                        let inverted = (7 * x + 3 * y + self.seed as usize).is_multiple_of(61);
                        data.extend(base.map(|byte| if inverted { 255 - byte } else { byte }));
                    }
                }
            }
        }
        let found: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != self.input_sha256 {
            return Err(wrong(format!("generated input of {}", self.file), self.input_sha256.clone(), found));
        }
        Rgb::new(height, width, data)
    }
}

/// Compares every step of one image; gives what the model sees by the name of the image's file.
fn check_image(fixture: &mut Fixture, config: &ImageConfig, case: &ImageCase) -> Result<(String, Rgb), NnError> {
    let file = case.file.strip_suffix(".safetensors").unwrap_or(&case.file);
    let frame = case.generate()?;
    let bytes = |data: &[u8]| data.iter().map(|byte| f32::from(*byte)).collect::<Vec<f32>>();
    fixture.compare(file, "input", &bytes(&frame.data), Tolerance::EXACT)?;
    let steps = ImageConfig { letterbox: case.letterbox, ..*config }.steps(&frame)?;
    for (name, image) in [
        ("letterbox", &steps.letterbox),
        ("smallest1", &steps.smallest1),
        ("crop", &steps.crop),
        ("smallest2", &steps.smallest2),
        ("smart_resize", &steps.resized),
    ] {
        fixture.compare(file, name, &bytes(&image.data), Tolerance::EXACT)?;
    }
    let last = &steps.resized;
    let cut = patches(last.height, last.width, 14, |y, x, channel| last.data[(y * last.width + x) * 3 + channel]);
    fixture.compare(file, "patches", &bytes(&cut), Tolerance::EXACT)?;
    Ok((file.to_owned(), steps.resized))
}

/// Inputs of the fixture whose names begin with `prefix`, by what follows.
fn keyed(fixture: &mut Fixture, prefix: &str) -> Result<Keyed, NnError> {
    let mut out = Keyed::new();
    for name in fixture.names("io") {
        if let Some(key) = name.strip_prefix(prefix) {
            let shape = shape(fixture, "io", &name)?;
            let data = fixture.input("io", &name, &shape)?;
            out.insert(key.to_owned(), Array { shape, data });
        }
    }
    Ok(out)
}

fn check_normalisation(fixture: &mut Fixture) -> Result<(), NnError> {
    let tag: String = setting(fixture, "state_action.tag")?;
    let modalities: BTreeMap<String, Modalities> = setting(fixture, "state_action.modality_configs")?;
    let variants: BTreeMap<String, Map<String, Value>> = setting(fixture, "state_action.variants")?;
    let file: String = setting(fixture, "state_action.statistics")?;
    let statistics: BTreeMap<String, EmbodimentStatistics> = fixture.json(&file)?;
    let missing = || wrong("state_action.tag of the fixture", "a tag with modalities and statistics", tag.clone());
    let (modalities, statistics) =
        (modalities.get(&tag).ok_or_else(missing)?, statistics.get(&tag).ok_or_else(missing)?);
    let (state, action) = (keyed(fixture, "in.state.")?, keyed(fixture, "in.action.")?);
    let batched = keyed(fixture, "decode.in.state.")?;
    let normal = keyed(fixture, "decode.in.action.")?;
    // Three dimensions, as the model's output has.
    let one = |keyed: &Keyed| -> Keyed {
        let lift = |array: &Array| Array { shape: [&[1], array.shape.as_slice()].concat(), data: array.data.clone() };
        keyed.iter().map(|(key, array)| (key.clone(), lift(array))).collect()
    };
    for (variant, flags) in variants {
        let mut all = flags;
        for key in ["max_state_dim", "max_action_dim", "max_action_horizon"] {
            all.insert(key.into(), fixture.size(&format!("state_action.{key}"))?.into());
        }
        let config: NormalisationConfig = serde_json::from_value(all.into())
            .map_err(|error| wrong(format!("state_action.variants.{variant}"), "four flags", error.to_string()))?;
        let normalisation = Normalisation::new(&tag, modalities, statistics, &config)?;
        let (padded, mask) = normalisation.padded_action(&action, &state)?;
        let encoded = normalisation.action(&action, &state)?;
        let mut results = vec![
            ("state_padded".to_owned(), normalisation.padded_state(&state)?),
            ("action_padded".to_owned(), padded),
            ("action_mask".to_owned(), mask),
        ];
        for (group, values) in [
            ("state", normalisation.state(&state)?),
            ("roundtrip", normalisation.decode(&one(&encoded), &one(&state))?),
            ("decoded", normalisation.decode(&normal, &batched)?),
            ("action", encoded),
        ] {
            results.extend(values.into_iter().map(|(key, array)| (format!("{group}.{key}"), array)));
        }
        for (name, array) in results {
            fixture.compare("io", &format!("{variant}.{name}"), &array.data, NUMBERS)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use w2a_nn::{Fixture, NnError};

    use super::{gr00t_action_head, gr00t_preprocess, gr00t_vlm};

    fn holds(name: &str, least: usize, run: impl Fn(&mut Fixture, &Device) -> Result<(), NnError>) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let mut fixture = Fixture::open(&dir).unwrap();
        assert_eq!(fixture.component(), name);
        run(&mut fixture, &Device::flex()).unwrap();
        let report = fixture.finish();
        assert!(report.holds(), "{report}");
        assert!(!report.to_string().contains("NOT COMPARED"), "{report}");
        assert!(report.counts().0 >= least, "{report}");
    }

    #[test]
    fn images_states_and_actions_agree_with_the_reference() {
        holds("gr00t_preprocess", 110, gr00t_preprocess);
    }

    #[test]
    fn the_backbone_agrees_with_the_reference() {
        holds("gr00t_vlm", 29, gr00t_vlm);
    }

    #[test]
    fn the_action_head_agrees_with_the_reference_in_values_and_gradients() {
        holds("gr00t_action_head", 150, gr00t_action_head);
    }
}
