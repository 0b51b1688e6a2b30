//! States and actions to the model's numbers and back, with the reference's rules (`state_action_processor.py`).
//!
//! Computed in f64 and rounded once. Quirks that are kept: relative actions use minimum and maximum even where percentiles
//! are asked for; clipping also clips actions that are normalised by mean and deviation, but not such states; a dimension
//! that never moves becomes 0 (range) or passes through (deviation 0).

use std::collections::BTreeMap;

use w2a_data::{Normaliser, NormaliserMode, StatisticsBuilder};
use w2a_nn::{Array, NnError};

use super::modality::{
    ActionFormat, ActionKind, EmbodimentStatistics, KeyStatistics, Modalities, NormalisationConfig, Representation,
    statistics_of,
};
use super::pose::Pose;
use super::wrong;

/// Values by key.
pub type Keyed = BTreeMap<String, Array>;

/// How the values of a key are normalised; vectors are `[rows, width]`.
#[derive(Clone, Debug)]
enum Rule {
    SinCos,
    MeanStd { mean: Vec<f64>, std: Vec<f64> },
    Range { min: Vec<f64>, max: Vec<f64> },
}

/// numpy's `isclose(max, min)`.
fn is_constant(min: f64, max: f64) -> bool {
    (max - min).abs() <= 1e-8 + 1e-5 * min.abs()
}

impl Rule {
    fn apply(&self, index: usize, value: f64) -> f64 {
        match self {
            Self::SinCos => value,
            Self::MeanStd { std, .. } if std[index] == 0.0 => value,
            Self::MeanStd { mean, std } => (value - mean[index]) / std[index],
            Self::Range { min, max } if is_constant(min[index], max[index]) => 0.0,
            Self::Range { min, max } => 2.0 * ((value - min[index]) / (max[index] - min[index])) - 1.0,
        }
    }

    fn undo(&self, index: usize, value: f64) -> f64 {
        match self {
            Self::SinCos => value,
            Self::MeanStd { std, .. } if std[index] == 0.0 => value,
            Self::MeanStd { mean, std } => value * std[index] + mean[index],
            Self::Range { min, max } => (value.clamp(-1.0, 1.0) + 1.0) / 2.0 * (max[index] - min[index]) + min[index],
        }
    }
}

#[derive(Clone, Debug)]
struct StateKey {
    name: String,
    /// Values before encoding; unknown for keys without statistics.
    width: Option<usize>,
    rule: Rule,
    clip: bool,
}

#[derive(Clone, Debug)]
struct ActionKey {
    name: String,
    rows: usize,
    width: usize,
    rule: Rule,
    /// The state that the values are relative to.
    reference: Option<(String, ActionKind, ActionFormat)>,
}

/// Normalises the states and actions of one embodiment.
#[derive(Clone, Debug)]
pub struct Normalisation {
    config: NormalisationConfig,
    state: Vec<StateKey>,
    action: Vec<ActionKey>,
    horizon: usize,
}

impl Normalisation {
    /// From what a checkpoint says about embodiment `tag`.
    ///
    /// # Errors
    /// Statistics that are missing or of another width, or widths beyond those of the model.
    pub fn new(
        tag: &str,
        modalities: &Modalities,
        statistics: &EmbodimentStatistics,
        config: &NormalisationConfig,
    ) -> Result<Self, NnError> {
        let range = |what: &str, stats: &KeyStatistics| match (config.use_percentiles, &stats.percentiles) {
            (false, _) => Ok(Rule::Range { min: stats.min.clone(), max: stats.max.clone() }),
            (true, Some([low, high])) => Ok(Rule::Range { min: low.clone(), max: high.clone() }),
            (true, None) => Err(wrong(
                format!("statistics.json, {tag}.{what}"),
                "q01 and q99, because use_percentiles is true",
                "neither",
            )),
        };
        let mean_std = |stats: &KeyStatistics| Rule::MeanStd { mean: stats.mean.clone(), std: stats.std.clone() };
        let mut state = Vec::new();
        for name in &modalities.state.modality_keys {
            let stats = || statistics_of(tag, "state", &statistics.state, name);
            let (rule, width) = if config.apply_sincos_state_encoding && modalities.state.is_sin_cos(name) {
                (Rule::SinCos, stats().ok().map(|stats| stats.width))
            } else {
                let stats = stats()?;
                if stats.rows != 1 {
                    let got = format!("{} rows", stats.rows);
                    return Err(wrong(format!("statistics.json, {tag}.state.{name}"), "one row", got));
                }
                let by_mean = modalities.state.is_mean_std(name);
                (if by_mean { mean_std(stats) } else { range(&format!("state.{name}"), stats)? }, Some(stats.width))
            };
            let clip = config.clip_outliers && matches!(rule, Rule::Range { .. });
            state.push(StateKey { name: name.clone(), width, rule, clip });
        }
        let horizon = modalities.action.delta_indices.len();
        let mut action = Vec::new();
        for (index, name) in modalities.action.modality_keys.iter().enumerate() {
            let how = modalities.action.action_configs.as_ref().and_then(|configs| configs.get(index));
            if modalities.action.action_configs.is_some() && how.is_none() {
                return Err(wrong(
                    format!("action_configs of {tag}"),
                    "one for each action key",
                    format!("none for {name}"),
                ));
            }
            let relative = how.filter(|how| how.rep == Representation::Relative && config.use_relative_action);
            let absolute = statistics_of(tag, "action", &statistics.action, name)?;
            let stats = match relative {
                Some(_) => statistics_of(tag, "relative_action", &statistics.relative_action, name)?,
                None => absolute,
            };
            if stats.width != absolute.width || stats.rows != 1 && stats.rows != horizon {
                let what = format!("statistics.json, {tag}.relative_action.{name}");
                let expected = format!("one row or {horizon}, of {} values", absolute.width);
                return Err(wrong(what, expected, format!("{} of {}", stats.rows, stats.width)));
            }
            let rule = match (modalities.action.is_mean_std(name), relative) {
                (true, _) => mean_std(stats),
                (false, Some(_)) => Rule::Range { min: stats.min.clone(), max: stats.max.clone() },
                (false, None) => range(&format!("action.{name}"), stats)?,
            };
            let reference =
                relative.map(|how| (how.state_key.clone().unwrap_or_else(|| name.clone()), how.kind, how.format));
            action.push(ActionKey { name: name.clone(), rows: stats.rows, width: stats.width, rule, reference });
        }
        let this = Self { config: config.clone(), state, action, horizon };
        let limits = [
            ("state dimensions", this.state.iter().map(StateKey::encoded).sum(), config.max_state_dim),
            ("action dimensions", this.action_dim(), config.max_action_dim),
            ("action steps", horizon, config.max_action_horizon),
        ];
        for (what, got, most) in limits {
            if got > most || most == 0 {
                return Err(wrong(format!("{what} of {tag}"), format!("at most {most}"), got.to_string()));
            }
        }
        Ok(this)
    }

    /// Steps of an action.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// Values of one step of an action, all keys together.
    pub fn action_dim(&self) -> usize {
        self.action.iter().map(|key| key.width).sum()
    }

    /// Action keys with the values of one step, in the model's order.
    pub fn action_widths(&self) -> impl Iterator<Item = (&str, usize)> {
        self.action.iter().map(|key| (key.name.as_str(), key.width))
    }

    /// State keys with the values of one step, in the model's order; unknown where a key has no statistics.
    pub fn state_widths(&self) -> impl Iterator<Item = (&str, Option<usize>)> {
        self.state.iter().map(|key| (key.name.as_str(), key.width))
    }

    /// The normalisation of one step of an action, keys side by side, where it is one range for every step and state; `None`
    /// if any key is relative to the state or normalised by mean and deviation.
    pub fn affine_action(&self) -> Option<Normaliser> {
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for key in &self.action {
            let Rule::Range { min, max } = &key.rule else { return None };
            if key.reference.is_some() || key.rows != 1 {
                return None;
            }
            low.extend(min.iter().map(|value| *value as f32));
            high.extend(max.iter().map(|value| *value as f32));
        }
        let mut builder = StatisticsBuilder::new("action", low.len());
        builder.push(&low).ok()?;
        builder.push(&high).ok()?;
        Normaliser::new(&builder.finish().ok()?, NormaliserMode::MinMax).ok()
    }

    /// Raw states `[steps, width]` by key → normalised ones; keys that are encoded as sine and cosine become twice as wide.
    ///
    /// # Errors
    /// A key that is missing or of another width.
    pub fn state(&self, raw: &Keyed) -> Result<Keyed, NnError> {
        let mut out = Keyed::new();
        for key in &self.state {
            let array = values_of("state", raw, &key.name)?;
            let (steps, width) = rows(&key.name, array, key.width)?;
            let mut data = Vec::with_capacity(array.data.len() * 2);
            for row in array.data.chunks_exact(width) {
                if let Rule::SinCos = key.rule {
                    data.extend(row.iter().map(|value| f64::from(*value).sin() as f32));
                    data.extend(row.iter().map(|value| f64::from(*value).cos() as f32));
                    continue;
                }
                data.extend(row.iter().enumerate().map(|(index, value)| {
                    let value = key.rule.apply(index, f64::from(*value));
                    (if key.clip { value.clamp(-1.0, 1.0) } else { value }) as f32
                }));
            }
            let width = if matches!(key.rule, Rule::SinCos) { 2 * width } else { width };
            out.insert(key.name.clone(), Array { shape: vec![steps, width], data });
        }
        Ok(out)
    }

    /// [`Normalisation::state`] with the keys side by side and zeros up to the model's width: `[steps, max_state_dim]`.
    ///
    /// # Errors
    /// As [`Normalisation::state`], and keys with different numbers of steps.
    pub fn padded_state(&self, raw: &Keyed) -> Result<Array, NnError> {
        let names = self.state.iter().map(|key| key.name.as_str());
        padded("state", &self.state(raw)?, names, self.config.max_state_dim)
    }

    /// Raw actions `[steps, width]` by key → normalised ones; those that are relative need the state before them.
    ///
    /// # Errors
    /// A key that is missing or of another width, or a pose that is none.
    pub fn action(&self, raw: &Keyed, state: &Keyed) -> Result<Keyed, NnError> {
        let mut out = Keyed::new();
        for key in &self.action {
            let array = values_of("action", raw, &key.name)?;
            let (steps, _) = rows(&key.name, array, Some(key.width))?;
            key.check_steps(steps)?;
            let mut values: Vec<f64> = array.data.iter().map(|value| f64::from(*value)).collect();
            if let Some((name, kind, format)) = &key.reference {
                let reference = last_row(name, values_of("state", state, name)?, 0)?;
                for row in values.chunks_exact_mut(key.width) {
                    relate(row, &reference, *kind, *format, Direction::ToRelative)?;
                }
            }
            let data = values.iter().enumerate().map(|(index, value)| {
                let value = key.rule.apply(index % (key.rows * key.width), *value);
                (if self.config.clip_outliers { value.clamp(-1.0, 1.0) } else { value }) as f32
            });
            out.insert(key.name.clone(), Array { shape: vec![steps, key.width], data: data.collect() });
        }
        Ok(out)
    }

    /// [`Normalisation::action`] with the keys side by side, zeros up to the model's width and horizon, and the mask of what
    /// is real: both `[max_action_horizon, max_action_dim]`.
    ///
    /// # Errors
    /// As [`Normalisation::action`], and more steps than the model has.
    pub fn padded_action(&self, raw: &Keyed, state: &Keyed) -> Result<(Array, Array), NnError> {
        let names = self.action.iter().map(|key| key.name.as_str());
        let mut action = padded("action", &self.action(raw, state)?, names, self.config.max_action_dim)?;
        let (steps, most, width) = (action.shape[0], self.config.max_action_horizon, self.config.max_action_dim);
        if steps > most {
            return Err(wrong("steps of an action", format!("at most {most}"), steps.to_string()));
        }
        action.shape[0] = most;
        action.data.resize(most * width, 0.0);
        let is_real = |index: usize| index / width < steps && index % width < self.action_dim();
        let mask = (0..most * width).map(|index| f32::from(u8::from(is_real(index)))).collect();
        Ok((action.clone(), Array { shape: action.shape, data: mask }))
    }

    /// The keys of the model's output `[batch, steps, width]`; steps and dimensions beyond the embodiment's are dropped.
    ///
    /// # Errors
    /// Fewer steps or dimensions than the embodiment has.
    pub fn split(&self, output: &Array) -> Result<Keyed, NnError> {
        let &[batch, steps, width] = output.shape.as_slice() else {
            return Err(wrong("output of the action head", "three dimensions", format!("{:?}", output.shape)));
        };
        if steps < self.horizon || width < self.action_dim() || output.data.len() != batch * steps * width {
            let expected = format!("at least {} steps of {} values", self.horizon, self.action_dim());
            return Err(wrong("output of the action head", expected, format!("{:?}", output.shape)));
        }
        let mut out = Keyed::new();
        let mut from = 0;
        for key in &self.action {
            let mut data = Vec::with_capacity(batch * self.horizon * key.width);
            for sample in output.data.chunks_exact(steps * width) {
                for row in sample.chunks_exact(width).take(self.horizon) {
                    data.extend_from_slice(&row[from..from + key.width]);
                }
            }
            from += key.width;
            out.insert(key.name.clone(), Array { shape: vec![batch, self.horizon, key.width], data });
        }
        Ok(out)
    }

    /// Normalised actions `[batch, steps, width]` by key, and the raw states `[batch, steps, width]` they were made for →
    /// actions in the robot's units.
    ///
    /// # Errors
    /// Keys that are missing or of another shape, or relative poses that are none.
    pub fn decode(&self, action: &Keyed, state: &Keyed) -> Result<Keyed, NnError> {
        let mut out = Keyed::new();
        for key in &self.action {
            let array = values_of("action", action, &key.name)?;
            let &[batch, steps, width] = array.shape.as_slice() else {
                return Err(wrong(format!("action {}", key.name), "three dimensions", format!("{:?}", array.shape)));
            };
            if width != key.width || steps == 0 || array.data.len() != batch * steps * width {
                let expected = format!("at least one step of {} values", key.width);
                return Err(wrong(format!("action {}", key.name), expected, format!("{:?}", array.shape)));
            }
            key.check_steps(steps)?;
            let each = key.rows * width;
            let undone = array
                .data
                .iter()
                .enumerate()
                .map(|(index, value)| key.rule.undo(index % (steps * width) % each, f64::from(*value)));
            let mut values: Vec<f64> = undone.collect();
            if let Some((name, kind, format)) = &key.reference {
                let states = values_of("state", state, name)?;
                for (sample, rows) in values.chunks_exact_mut(steps * width).enumerate() {
                    let reference = last_row(name, states, sample)?;
                    for row in rows.chunks_exact_mut(width) {
                        relate(row, &reference, *kind, *format, Direction::ToAbsolute)?;
                    }
                }
            }
            let data = values.into_iter().map(|value| value as f32).collect();
            out.insert(key.name.clone(), Array { shape: array.shape.clone(), data });
        }
        Ok(out)
    }
}

impl StateKey {
    /// Values after encoding, as far as they are known.
    fn encoded(&self) -> usize {
        let width = self.width.unwrap_or(0);
        if matches!(self.rule, Rule::SinCos) { 2 * width } else { width }
    }
}

impl ActionKey {
    /// Statistics with a row for each step fit only actions of as many steps.
    fn check_steps(&self, steps: usize) -> Result<(), NnError> {
        if self.rows == 1 || self.rows == steps {
            return Ok(());
        }
        let expected = format!("{}, as in its relative statistics", self.rows);
        Err(wrong(format!("steps of action {}", self.name), expected, steps.to_string()))
    }
}

/// Between absolute and relative.
#[derive(Clone, Copy)]
enum Direction {
    ToRelative,
    ToAbsolute,
}

fn relate(
    row: &mut [f64],
    reference: &[f64],
    kind: ActionKind,
    format: ActionFormat,
    direction: Direction,
) -> Result<(), NnError> {
    if reference.len() != row.len() {
        let expected = format!("{} values, as the action", row.len());
        return Err(wrong("reference state of a relative action", expected, reference.len().to_string()));
    }
    match kind {
        ActionKind::Joints => {
            let sign = match direction {
                Direction::ToRelative => -1.0,
                Direction::ToAbsolute => 1.0,
            };
            row.iter_mut().zip(reference).for_each(|(value, reference)| *value += sign * reference);
        }
        ActionKind::EndEffector => {
            let (pose, reference) = (Pose::read(row, format)?, Pose::read(reference, format)?);
            let moved = match direction {
                Direction::ToRelative => pose.relative_to(&reference),
                Direction::ToAbsolute => pose.placed_on(&reference),
            };
            row.copy_from_slice(&moved.write(format));
        }
    }
    Ok(())
}

fn values_of<'a>(modality: &str, all: &'a Keyed, key: &str) -> Result<&'a Array, NnError> {
    all.get(key).ok_or_else(|| {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        wrong(format!("{modality} keys"), format!("{key:?} among them"), known.join(", "))
    })
}

/// Steps and width of `[steps, width]` values.
fn rows(key: &str, array: &Array, width: Option<usize>) -> Result<(usize, usize), NnError> {
    match array.shape.as_slice() {
        &[steps, found]
            if found > 0 && width.is_none_or(|width| width == found) && array.data.len() == steps * found =>
        {
            Ok((steps, found))
        }
        _ => {
            let width = width.map_or_else(|| "some".into(), |width| width.to_string());
            Err(wrong(format!("values of {key:?}"), format!("[steps, {width}]"), format!("{:?}", array.shape)))
        }
    }
}

/// The last step of a sample of `[steps, width]` (of any sample) or `[batch, steps, width]` values.
fn last_row(key: &str, array: &Array, sample: usize) -> Result<Vec<f64>, NnError> {
    let (batch, steps, width) = match *array.shape.as_slice() {
        [steps, width] => (sample + 1, steps, width),
        [batch, steps, width] => (batch, steps, width),
        _ => (0, 0, 0),
    };
    let first = if array.shape.len() == 2 { 0 } else { sample * steps * width };
    let row = (steps > 0 && sample < batch).then(|| first + (steps - 1) * width);
    let row = row.and_then(|start| array.data.get(start..start + width));
    let row = row.ok_or_else(|| {
        wrong(
            format!("state {key:?}"),
            format!("[batch, steps, width] for sample {sample}"),
            format!("{:?}", array.shape),
        )
    })?;
    Ok(row.iter().map(|value| f64::from(*value)).collect())
}

/// Keys side by side, with zeros up to `most` values a step.
fn padded<'a>(what: &str, values: &Keyed, names: impl Iterator<Item = &'a str>, most: usize) -> Result<Array, NnError> {
    let mut parts = Vec::new();
    for name in names {
        parts.push(rows(name, values_of(what, values, name)?, None).map(|(steps, width)| (name, steps, width))?);
    }
    let steps = parts.first().map_or(0, |(_, steps, _)| *steps);
    let width: usize = parts.iter().map(|(_, _, width)| width).sum();
    if parts.iter().any(|(_, other, _)| *other != steps) || width > most {
        let got = parts.iter().map(|(name, steps, width)| format!("{name} {steps} x {width}"));
        let expected = format!("the same number of steps in every key, and at most {most} values together");
        return Err(wrong(format!("{what} of a step"), expected, got.collect::<Vec<_>>().join(", ")));
    }
    let mut data = vec![0.0; steps * most];
    let mut from = 0;
    for (name, _, width) in parts {
        let source = values[name].data.chunks_exact(width);
        for (row, source) in data.chunks_exact_mut(most).zip(source) {
            row[from..from + width].copy_from_slice(source);
        }
        from += width;
    }
    Ok(Array { shape: vec![steps, most], data })
}
