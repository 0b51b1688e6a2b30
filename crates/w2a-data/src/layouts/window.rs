//! Windows of actions of one fixed length.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::error::LayoutError;

/// Steps of a window: 32 chunks of 4, of which the first 24 pair with the latents of a clip of 93 frames.
pub const WINDOW_STEPS: usize = 128;

/// How the window of a clip is cut from the actions of its demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// A random crop of these steps if there are enough, else their last action repeated (RoboCasa's skills).
    Skill(Range<usize>),
    /// Steps `128 (order - 1)` up to `128 order`; the last 128 where that reaches past the end; zeros behind shorter
    /// demonstrations (LIBERO). The release's code shifts `order` by one more, which leaves its first window empty.
    Nth {
        /// Position of the skill, from 1.
        order: u64,
    },
    /// The first 128 steps, zeros behind shorter demonstrations (Franka, Bridge).
    Whole,
}

impl Window {
    /// The window, `[WINDOW_STEPS, width]`, of the demonstration `actions`, `[steps, width]`.
    ///
    /// Random numbers are drawn for crops only.
    ///
    /// # Errors
    /// [`LayoutError::Window`] if there are no actions, they do not fill whole rows, or the skill reaches past the end.
    pub fn cut(&self, actions: &[f32], width: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>, LayoutError> {
        let wrong = |what, got, expected: &str| Err(LayoutError::Window { what, got, expected: expected.to_owned() });
        if width == 0 || actions.is_empty() || !actions.len().is_multiple_of(width) {
            return wrong("number of values", actions.len(), "whole rows of actions, at least one");
        }
        let steps = actions.len() / width;
        let range = match self {
            Self::Skill(range) => {
                if range.is_empty() || range.end > steps {
                    return wrong("end of the skill", range.end, &format!("1 to {steps}, after its start"));
                }
                let spare = range.len().saturating_sub(WINDOW_STEPS);
                let first = range.start + if spare > 0 { rng.random_range(0..=spare) } else { 0 };
                first..range.end.min(first + WINDOW_STEPS)
            }
            Self::Nth { order } => {
                let last = steps.saturating_sub(WINDOW_STEPS);
                let before = usize::try_from(order.saturating_sub(1)).unwrap_or(usize::MAX);
                let first = before.saturating_mul(WINDOW_STEPS).min(last);
                first..steps.min(first + WINDOW_STEPS)
            }
            Self::Whole => 0..steps.min(WINDOW_STEPS),
        };
        let mut window: Vec<f32> =
            actions.iter().skip(range.start * width).take(range.len() * width).copied().collect();
        let last = match self {
            Self::Skill(_) => window.iter().skip(window.len() - width).copied().collect(),
            Self::Nth { .. } | Self::Whole => vec![0.0; width],
        };
        while window.len() < WINDOW_STEPS * width {
            window.extend_from_slice(&last);
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream;

    /// `[steps, 2]`: the step, and its negative.
    fn actions(steps: usize) -> Vec<f32> {
        (0..steps).flat_map(|step| [step as f32 + 1.0, -(step as f32) - 1.0]).collect()
    }

    fn steps_of(window: &Window, steps: usize) -> Vec<i64> {
        let cut = window.cut(&actions(steps), 2, &mut stream(1, "window")).unwrap();
        assert_eq!(cut.len(), WINDOW_STEPS * 2);
        cut.chunks(2)
            .map(|row| {
                assert_eq!(row[0], -row[1]);
                row[0] as i64
            })
            .collect()
    }

    #[test]
    fn a_short_skill_repeats_its_last_action() {
        let steps = steps_of(&Window::Skill(10..15), 40);
        assert_eq!(steps[..6], [11, 12, 13, 14, 15, 15]);
        assert_eq!(steps[127], 15);
    }

    #[test]
    fn a_long_skill_is_cropped_at_random_and_reproducibly() {
        let mut starts = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let window = Window::Skill(5..150);
            let cut = |seed| window.cut(&actions(200), 2, &mut stream(seed, "window")).unwrap();
            assert_eq!(cut(seed), cut(seed));
            let first = cut(seed)[0] as usize - 1;
            assert!((5..=22).contains(&first), "{first}");
            starts.insert(first);
        }
        assert_eq!(starts.len(), 18, "every crop occurs");
    }

    #[test]
    fn the_nth_window_moves_back_to_fit_and_zeros_follow_short_demonstrations() {
        assert_eq!(steps_of(&Window::Nth { order: 1 }, 300)[0], 1);
        assert_eq!(steps_of(&Window::Nth { order: 2 }, 300)[0], 129);
        assert_eq!(steps_of(&Window::Nth { order: 3 }, 300)[0], 173, "the last 128 steps");
        assert_eq!(steps_of(&Window::Nth { order: u64::MAX }, 300)[127], 300);
        let short = steps_of(&Window::Nth { order: 2 }, 100);
        assert_eq!((short[0], short[99], short[100], short[127]), (1, 100, 0, 0));
        assert_eq!(steps_of(&Window::Whole, 300)[127], 128);
        assert_eq!(steps_of(&Window::Whole, 3)[2..5], [3, 0, 0]);
    }

    #[test]
    fn no_actions_ragged_actions_and_skills_past_the_end_are_refused() {
        let cut =
            |window: Window, actions: &[f32], width| window.cut(actions, width, &mut stream(1, "window")).is_err();
        assert!(cut(Window::Whole, &[], 2));
        assert!(cut(Window::Whole, &[1.0; 3], 2));
        assert!(cut(Window::Whole, &[1.0; 4], 0));
        assert!(cut(Window::Skill(3..5), &[1.0; 8], 2));
        assert!(cut(Window::Skill(3..3), &[1.0; 8], 2));
    }

    proptest! {
        #[test]
        fn every_window_has_its_length_and_only_actions_or_padding(
            steps in 1_usize..300, start in 0_usize..300, length in 1_usize..300, order: u64, seed: u64,
        ) {
            let start = start % steps;
            let end = (start + length).min(steps);
            for window in [Window::Skill(start..end), Window::Nth { order }, Window::Whole] {
                let cut = window.cut(&actions(steps), 2, &mut stream(seed, "window")).unwrap();
                prop_assert_eq!(cut.len(), WINDOW_STEPS * 2);
                prop_assert!(cut.iter().all(|value| value.abs() <= steps as f32));
            }
        }
    }
}
