//! A demonstration's signals, and the segments they show.

use serde::Serialize;
use w2a_data::Episode;

use crate::config::{Config, Cut, SignalChoice};
use crate::motion;
use crate::segment::{ContactRule, Segment, contacts, cycles, phases};

/// Which signal the segments of a demonstration come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Cycles of the gripper.
    Aperture,
    /// Pauses and reversals of the end effector.
    Motion,
}

impl Signal {
    /// Its name in files and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aperture => "aperture",
            Self::Motion => "motion",
        }
    }
}

/// What is known of one segment, for people and for a language model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    /// The narrowest aperture within it, metres; `None` where the settings name no entries for it.
    pub narrowest_m: Option<f32>,
    /// How far the end effector travels within it, metres; `None` where the settings name no position.
    pub travel_m: Option<f32>,
}

/// What a demonstration's signals say.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// The signal that was used; `None` if neither shows a segment.
    pub signal: Option<Signal>,
    /// The segments in order; empty if there is no signal.
    pub segments: Vec<Segment>,
    /// What is known of each segment.
    pub facts: Vec<Facts>,
    /// The widest aperture, metres.
    pub widest_m: Option<f32>,
}

impl Analysis {
    /// Analyses one demonstration. Entries that it does not have give an empty signal.
    pub fn of(episode: &Episode, config: &Config) -> Self {
        let apertures_m = apertures(episode, config);
        let positions = columns(episode, &config.motion.position);
        let width = config.motion.position.len();
        let by_aperture = || {
            let rule = ContactRule::new(&config.gripper, &config.segment, episode.fps);
            let contacts = contacts(&apertures_m, &rule);
            match config.segment.cut {
                Cut::Cycle => cycles(apertures_m.len(), &contacts),
                Cut::Phase => phases(apertures_m.len(), &contacts),
            }
        };
        let by_motion = || motion::segments(&positions, width, episode.fps, &config.motion);
        let (signal, segments) = match config.segment.signal {
            SignalChoice::Aperture => (Signal::Aperture, by_aperture()),
            SignalChoice::Motion => (Signal::Motion, by_motion()),
            SignalChoice::Auto => match by_aperture() {
                none if none.is_empty() => (Signal::Motion, by_motion()),
                segments => (Signal::Aperture, segments),
            },
        };
        let rows: Vec<&[f32]> = positions.chunks_exact(width.max(1)).collect();
        let of = |segment: &Segment| Facts {
            narrowest_m: apertures_m
                .get(segment.frames.clone())
                .and_then(|within| within.iter().copied().min_by(f32::total_cmp)),
            travel_m: rows.get(segment.frames.clone()).map(travel),
        };
        Self {
            signal: (!segments.is_empty()).then_some(signal),
            facts: segments.iter().map(of).collect(),
            segments,
            widest_m: apertures_m.iter().copied().max_by(f32::total_cmp),
        }
    }
}

/// The aperture at every frame, metres; empty where the settings name no entries for it.
pub(crate) fn apertures(episode: &Episode, config: &Config) -> Vec<f32> {
    let values = columns(episode, &config.gripper.entries);
    let weighted = |row: &[f32]| row.iter().zip(&config.gripper.weights).map(|(value, weight)| value * weight).sum();
    values.chunks_exact(config.gripper.entries.len().max(1)).map(weighted).collect()
}

/// Some entries of the proprioception, `[frames, entries]`; empty if there are none or one does not exist.
fn columns(episode: &Episode, entries: &[usize]) -> Vec<f32> {
    let row = |row: &[f32]| entries.iter().map(|entry| row.get(*entry).copied()).collect::<Option<Vec<f32>>>();
    let rows = episode.proprio.chunks_exact(episode.proprio_dim.max(1)).map(row);
    rows.collect::<Option<Vec<_>>>().map_or_else(Vec::new, |rows| rows.concat())
}

/// The length of the way through some points.
fn travel(points: &[&[f32]]) -> f32 {
    let distance =
        |(from, to): (&&[f32], &&[f32])| from.iter().zip(*to).map(|(a, b)| (b - a) * (b - a)).sum::<f32>().sqrt();
    points.iter().zip(points.iter().skip(1)).map(distance).sum()
}

/// Whether what the data calls an aperture can be one of this hand: `None` if so, else what to look at.
///
/// `widest_m` is the widest aperture of all demonstrations, metres.
pub(crate) fn calibration_note(widest_m: f32, config: &Config) -> Option<String> {
    let open_m = config.gripper.open_m;
    let is_near = widest_m > 0.5 * open_m && widest_m < 1.5 * open_m;
    (!is_near).then(|| {
        format!(
            "The widest aperture in the data is {widest_m:.4} m, and the hand is said to open to {open_m:.4} m: check \
             `gripper.entries`, `gripper.weights` and `gripper.open_m`, or the embodiment."
        )
    })
}

/// Seconds of a number of frames.
pub(crate) fn seconds(frames: usize, fps: u32) -> f64 {
    frames as f64 / f64::from(fps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SegmentConfig;

    fn episode(apertures: &[f32], xs: &[f32]) -> Episode {
        let proprio = apertures.iter().zip(xs).flat_map(|(aperture, x)| [*x, 0.0, 0.0, *aperture]).collect();
        Episode {
            instruction: "do".into(),
            source: String::new(),
            fps: 10,
            cameras: Vec::new(),
            proprio_dim: 4,
            proprio,
            action_dim: 0,
            actions: Vec::new(),
        }
    }

    fn config() -> Config {
        let mut config = Config::preset("tabletop").unwrap();
        config.gripper.entries = vec![3];
        config
    }

    #[test]
    fn the_gripper_speaks_first_and_motion_where_it_is_silent() {
        let there_and_back: Vec<f32> = (0..80_i16).map(|frame| 0.02 * f32::from(40 - (frame - 40).abs())).collect();
        let grasp: Vec<f32> = (0..80).map(|frame| if (20..60).contains(&frame) { 0.02 } else { 0.09 }).collect();
        let both = Analysis::of(&episode(&grasp, &there_and_back), &config());
        assert_eq!((both.signal, both.segments.len()), (Some(Signal::Aperture), 1));
        let push = Analysis::of(&episode(&[0.0; 80], &there_and_back), &config());
        assert_eq!((push.signal, push.segments.len()), (Some(Signal::Motion), 2));
        let nothing = Analysis::of(&episode(&[0.0; 80], &[0.0; 80]), &config());
        assert_eq!((nothing.signal, nothing.segments.len()), (None, 0));
    }

    #[test]
    fn a_chosen_signal_is_not_replaced() {
        let mut config = config();
        config.segment.signal = SignalChoice::Aperture;
        let moving: Vec<f32> = (0..80_i16).map(f32::from).collect();
        assert_eq!(Analysis::of(&episode(&[0.09; 80], &moving), &config).signal, None);
    }

    #[test]
    fn two_fingers_add_up_and_travel_is_the_length_of_the_way() {
        let mut config = config();
        config.gripper.entries = vec![3, 0];
        config.gripper.weights = vec![2.0, -1.0];
        config.segment = SegmentConfig { min_contact_s: 0.0, min_open_s: 0.0, ..config.segment };
        let episode = episode(&[0.05, 0.01, 0.03], &[0.0, 0.01, -0.01]);
        let expected = [0.1, 0.01, 0.07];
        let got = apertures(&episode, &config);
        assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-6), "{got:?}");
        let analysis = Analysis::of(&episode, &config);
        let near = |value: Option<f32>, expected: f32| (value.unwrap() - expected).abs() < 1e-6;
        assert!(near(analysis.facts[0].travel_m, 0.03) && near(analysis.facts[0].narrowest_m, 0.01), "{analysis:?}");
        assert!(near(analysis.widest_m, 0.1));
    }

    #[test]
    fn an_entry_that_does_not_exist_gives_no_signal() {
        let mut config = config();
        config.gripper.entries = vec![4];
        assert!(apertures(&episode(&[0.05; 3], &[0.0; 3]), &config).is_empty());
    }

    #[test]
    fn an_aperture_in_other_units_is_noticed() {
        assert!(calibration_note(0.089, &config()).is_none());
        assert!(calibration_note(89.0, &config()).unwrap().contains("gripper.weights"));
        assert!(calibration_note(0.001, &config()).is_some());
    }
}
