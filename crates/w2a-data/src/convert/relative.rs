//! Statistics of actions relative to the state they start from, as GR00T normalises them.

use serde_json::{Map, Value, json};

use crate::{ConvertError, Episode, Group, StatisticsBuilder};

/// A part of the actions and the part of the proprioception of the same name, whose difference is taken.
struct Pair {
    action: Group,
    state: Group,
    /// Rows of all episodes, `[steps, width]` each.
    actions: Vec<f32>,
    states: Vec<f32>,
}

/// Gathers the relative actions of parts that occur under the same name and width on both sides.
pub struct RelativeStatistics {
    pairs: Vec<Pair>,
    /// Number of steps of every episode, in order.
    lengths: Vec<usize>,
    horizon: usize,
}

impl RelativeStatistics {
    pub fn new(state: &[Group], action: &[Group], horizon: usize) -> Self {
        let pair = |action: &Group| {
            let width = action.end - action.start;
            let state = state.iter().find(|state| state.name == action.name && state.end - state.start == width)?;
            Some(Pair { action: action.clone(), state: state.clone(), actions: Vec::new(), states: Vec::new() })
        };
        Self { pairs: action.iter().filter_map(pair).collect(), lengths: Vec::new(), horizon }
    }

    pub fn add(&mut self, episode: &Episode) {
        self.lengths.push(episode.len());
        for pair in &mut self.pairs {
            for step in 0..episode.len() {
                pair.actions.extend_from_slice(part(episode.action(step), &pair.action));
                pair.states.extend_from_slice(part(episode.proprio(step), &pair.state));
            }
        }
    }

    /// `{part: {statistic: [horizon][width]}}` over the windows `action[i .. i + horizon] - state[i]` that lie within an
    /// episode. A part without any such window is left out.
    pub fn finish(self) -> Result<Value, ConvertError> {
        let mut parts = Map::new();
        for pair in &self.pairs {
            let width = pair.action.end - pair.action.start;
            let mut rows: [Vec<Vec<f32>>; 6] = Default::default();
            for offset in 0..self.horizon {
                let mut builder = StatisticsBuilder::new(pair.action.name.as_str(), width);
                let mut first = 0;
                for &length in &self.lengths {
                    for start in first..first + (length + 1).saturating_sub(self.horizon) {
                        let (action, state) = ((start + offset) * width, start * width);
                        let actions = pair.actions.iter().skip(action).take(width);
                        let relative: Vec<f32> =
                            actions.zip(pair.states.iter().skip(state)).map(|(action, state)| action - state).collect();
                        builder.push(&relative)?;
                    }
                    first += length;
                }
                let Ok(statistics) = builder.finish() else { break };
                let s = statistics;
                for (row, values) in rows.iter_mut().zip([s.max, s.min, s.mean, s.std, s.q01, s.q99]) {
                    row.push(values);
                }
            }
            if rows.iter().all(|row| row.len() == self.horizon) {
                let [max, min, mean, std, q01, q99] = rows;
                let value = json!({ "max": max, "min": min, "mean": mean, "std": std, "q01": q01, "q99": q99 });
                parts.insert(pair.action.name.clone(), value);
            }
        }
        Ok(Value::Object(parts))
    }
}

/// The entries of a part; groups come from checked sources and lie within the row.
fn part<'a>(row: &'a [f32], group: &Group) -> &'a [f32] {
    row.get(group.start..group.end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, start: usize, end: usize) -> Group {
        Group { name: name.into(), start, end }
    }

    #[test]
    fn windows_are_relative_to_the_state_they_start_from() {
        // Two episodes: states 0, 10, 20 and 0, 10; actions are the state plus 1, 2, 3 ...
        let episode = |states: &[f32], actions: &[f32]| Episode {
            instruction: "x".into(),
            source: String::new(),
            fps: 10,
            cameras: Vec::new(),
            proprio_dim: 2,
            proprio: states.iter().flat_map(|&state| [99.0, state]).collect(),
            action_dim: 2,
            actions: actions.iter().flat_map(|&action| [action, 7.0]).collect(),
        };
        let (state, action) = ([group("arm", 1, 2), group("hand", 0, 1)], [group("arm", 0, 1), group("head", 1, 2)]);
        let mut statistics = RelativeStatistics::new(&state, &action, 2);
        statistics.add(&episode(&[0.0, 10.0, 20.0], &[1.0, 12.0, 23.0]));
        statistics.add(&episode(&[5.0], &[6.0]));
        statistics.add(&episode(&[0.0, 10.0], &[4.0, 11.0]));
        let value = statistics.finish().unwrap();
        // Windows: [1, 12], [2, 13], and [4, 11] of the last; the episode of one step has none.
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["arm"]);
        assert_eq!(value["arm"]["min"], json!([[1.0], [11.0]]));
        assert_eq!(value["arm"]["max"], json!([[4.0], [13.0]]));
        assert_eq!(value["arm"]["mean"].to_string(), json!([[7.0_f32 / 3.0], [12.0]]).to_string());
    }

    #[test]
    fn parts_of_other_widths_and_episodes_that_are_too_short_have_no_statistics() {
        let statistics = RelativeStatistics::new(&[group("arm", 0, 2)], &[group("arm", 0, 1)], 2);
        assert_eq!(statistics.finish().unwrap(), json!({}));
        let statistics = RelativeStatistics::new(&[group("arm", 0, 1)], &[group("arm", 0, 1)], 2);
        assert_eq!(statistics.finish().unwrap(), json!({}));
    }
}
