//! The second signal: pauses and reversals of the end effector, for demonstrations in which the gripper does nothing.
//!
//! A push has no grasp to cut at, but the hand slows down between reaching and pushing, and turns round when it draws
//! back. Both are told from positions alone.
//!
//! - Velocities are averaged over a short window, so that a tremble is no turn.
//! - A *pause* is a stretch of slow frames between two fast ones; it cuts at its slowest frame.
//! - A *reversal* is where the motion before and the motion after, each over two such windows, point apart; it cuts at
//!   the slowest frame of the turn. It needs no pause: a quick turn may never be slow.
//! - Of cuts that are too close the weaker one goes: pauses before reversals, then the faster before the slower.

use crate::config::MotionConfig;
use crate::segment::{Segment, frames};

/// A place where the motion may be cut.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    frame: usize,
    is_reversal: bool,
    /// Speed there as a share of fast motion.
    speed: f32,
}

/// The segments of a demonstration by its motion, in order, disjoint, without gaps; none if nothing moves.
///
/// `positions` are `[frames, width]` in metres, `fps` frames a second.
pub fn segments(positions: &[f32], width: usize, fps: u32, config: &MotionConfig) -> Vec<Segment> {
    let Some(count) = positions.len().checked_div(width) else { return Vec::new() };
    let velocities = smoothed(&velocities(positions, width, fps), frames(config.window_s, fps).max(1));
    let speeds: Vec<f32> = velocities.iter().map(|velocity| norm(velocity)).collect();
    let fast = quantile_90(&speeds);
    if !fast.is_finite() || fast <= 0.0 || fast < config.min_speed {
        return Vec::new();
    }
    let mut cuts = reversals(&velocities, &speeds, fast, 2 * frames(config.window_s, fps).max(1), config);
    if config.pauses {
        cuts.extend(pauses(&speeds, fast, config.slow_share));
    }
    let kept = spaced(cuts, count, frames(config.min_segment_s, fps).max(1));
    let starts = std::iter::once(0).chain(kept.iter().copied());
    let ends = kept.iter().copied().chain([count]);
    starts.zip(ends).map(|(start, end)| Segment { frames: start..end, contact: end..end }).collect()
}

/// Velocity from each frame to the next, metres per second.
fn velocities(positions: &[f32], width: usize, fps: u32) -> Vec<Vec<f32>> {
    let rows: Vec<&[f32]> = positions.chunks_exact(width.max(1)).collect();
    let step = |(from, to): (&&[f32], &&[f32])| from.iter().zip(*to).map(|(a, b)| (b - a) * fps as f32).collect();
    rows.iter().zip(rows.iter().skip(1)).map(step).collect()
}

/// The mean over a centred window.
fn smoothed(rows: &[Vec<f32>], window: usize) -> Vec<Vec<f32>> {
    let around = |frame: usize| {
        let from = frame.saturating_sub((window - 1) / 2);
        &rows[from..(frame + window / 2 + 1).min(rows.len())]
    };
    (0..rows.len()).map(|frame| mean(around(frame))).collect()
}

fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(total, value)| *total += value / rows.len() as f32);
    }
    sum
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

fn quantile_90(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(0.0)
}

/// Stretches of slow frames that fast ones surround, cut at their slowest frame.
fn pauses(speeds: &[f32], fast: f32, slow_share: f32) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut slowest: Option<Cut> = None;
    let mut has_moved = false;
    for (frame, speed) in speeds.iter().enumerate() {
        let speed = speed / fast;
        if speed < slow_share {
            if has_moved && slowest.is_none_or(|cut| speed < cut.speed) {
                slowest = Some(Cut { frame, is_reversal: false, speed });
            }
        } else {
            has_moved = true;
            cuts.extend(slowest.take());
        }
    }
    cuts
}

/// Stretches of frames around which the motion turns back, cut at their slowest frame.
fn reversals(velocities: &[Vec<f32>], speeds: &[f32], fast: f32, window: usize, config: &MotionConfig) -> Vec<Cut> {
    let least = config.slow_share * fast;
    let mut cuts = Vec::new();
    let mut slowest: Option<Cut> = None;
    for (frame, speed) in speeds.iter().enumerate() {
        let around =
            frame.checked_sub(window).map(|from| (velocities.get(from..frame), velocities.get(frame..frame + window)));
        let cosine = match around {
            Some((Some(before), Some(after))) => turn(before, after, least),
            _ => None,
        };
        if cosine.is_some_and(|cosine| cosine < config.reversal_cosine) {
            let speed = speed / fast;
            if slowest.is_none_or(|cut| speed < cut.speed) {
                slowest = Some(Cut { frame, is_reversal: true, speed });
            }
        } else {
            cuts.extend(slowest.take());
        }
    }
    cuts
}

/// Cosine of the mean velocities before and after; `None` if either is slower than `least`, or nothing.
fn turn(before: &[Vec<f32>], after: &[Vec<f32>], least: f32) -> Option<f32> {
    let (before, after) = (mean(before), mean(after));
    let (one, other) = (norm(&before), norm(&after));
    if one.min(other) < least || one.min(other) <= 0.0 {
        return None;
    }
    let product: f32 = before.iter().zip(&after).map(|(a, b)| a * b).sum();
    Some(product / (one * other))
}

/// The frames of the strongest cuts that are at least `distance` from each other and from both ends, in order.
fn spaced(mut cuts: Vec<Cut>, count: usize, distance: usize) -> Vec<usize> {
    let weakness = |cut: &Cut| (!cut.is_reversal, cut.speed);
    cuts.sort_by(|one, other| {
        let ((a, x), (b, y)) = (weakness(one), weakness(other));
        a.cmp(&b).then(x.total_cmp(&y)).then(one.frame.cmp(&other.frame))
    });
    let mut kept: Vec<usize> = Vec::new();
    for cut in cuts {
        let is_inside = cut.frame >= distance && cut.frame + distance <= count;
        if is_inside && kept.iter().all(|frame| frame.abs_diff(cut.frame) >= distance) {
            kept.push(cut.frame);
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const FPS: u32 = 20;

    fn config() -> MotionConfig {
        Config::preset("tabletop").unwrap().motion
    }

    /// A smooth course through points, `steps` frames from each to the next.
    fn course(points: &[[f32; 2]], steps: usize) -> Vec<f32> {
        let mut positions = Vec::new();
        for pair in points.windows(2) {
            for step in 0..steps {
                let t = step as f32 / steps as f32;
                let share = t * t * (3.0 - 2.0 * t);
                positions.extend((0..2).map(|axis| pair[0][axis] + (pair[1][axis] - pair[0][axis]) * share));
            }
        }
        positions.extend(points[points.len() - 1]);
        positions
    }

    fn cuts(positions: &[f32], config: &MotionConfig) -> Vec<usize> {
        segments(positions, 2, FPS, config).iter().skip(1).map(|segment| segment.frames.start).collect()
    }

    #[test]
    fn a_push_is_cut_where_it_begins_and_where_the_hand_draws_back() {
        let push = course(&[[0.0, 0.3], [0.0, 0.0], [0.3, 0.0], [0.1, 0.0]], 30);
        let found = cuts(&push, &config());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].abs_diff(30) <= 2 && found[1].abs_diff(60) <= 2, "{found:?}");
    }

    #[test]
    fn without_pauses_only_the_turn_cuts() {
        let push = course(&[[0.0, 0.3], [0.0, 0.0], [0.3, 0.0], [0.1, 0.0]], 30);
        let found = cuts(&push, &MotionConfig { pauses: false, ..config() });
        assert!(found.len() == 1 && found[0].abs_diff(60) <= 3, "{found:?}");
    }

    #[test]
    fn a_quick_turn_without_a_pause_is_a_reversal() {
        let positions: Vec<f32> =
            (0..80_i16).flat_map(|frame| [0.01 * f32::from(40 - (frame - 40).abs()), 0.0]).collect();
        let found = cuts(&positions, &MotionConfig { pauses: false, ..config() });
        assert!(found.len() == 1 && found[0].abs_diff(40) <= 1, "{found:?}");
    }

    #[test]
    fn one_smooth_motion_is_one_segment_and_rest_at_its_ends_is_no_pause() {
        let points = [[0.0, 0.0], [0.0, 0.0], [0.4, 0.1], [0.4, 0.1]];
        assert_eq!(segments(&course(&points, 30), 2, FPS, &config()).len(), 1);
    }

    #[test]
    fn what_does_not_move_has_no_segment() {
        assert!(segments(&[0.3; 100], 2, FPS, &config()).is_empty());
        assert!(segments(&[], 2, FPS, &config()).is_empty());
        assert!(segments(&[1.0, 2.0], 2, FPS, &config()).is_empty());
        assert!(segments(&[1.0, 2.0], 0, FPS, &config()).is_empty());
        let tremble: Vec<f32> = (0..200).map(|frame| 1e-4 * (frame % 3) as f32).collect();
        assert!(segments(&tremble, 2, FPS, &config()).is_empty());
    }

    proptest! {
        #[test]
        fn segments_are_ordered_disjoint_long_enough_and_cover_the_demonstration(
            positions in prop::collection::vec(-1.0..1.0_f32, 0..300), width in 1_usize..4, fps in 1_u32..60,
        ) {
            let found = segments(&positions, width, fps, &config());
            let mut end = 0;
            for segment in &found {
                prop_assert_eq!(segment.frames.start, end);
                prop_assert!(segment.frames.len() >= frames(config().min_segment_s, fps).max(1) || found.len() == 1);
                end = segment.frames.end;
            }
            prop_assert!(found.is_empty() || end == positions.len() / width);
        }

        #[test]
        fn rest_before_and_after_moves_no_cut(
            turns in prop::collection::vec([-0.5..0.5_f32, -0.5..0.5_f32], 2..5), rest in 1_usize..40,
        ) {
            let moving = course(&turns, 30);
            let first = [moving[0], moving[1]].repeat(rest);
            let last = [moving[moving.len() - 2], moving[moving.len() - 1]].repeat(rest);
            let padded = [first, moving.clone(), last].concat();
            // Without the measure of what is fast, which rest changes.
            let rule = MotionConfig { pauses: false, slow_share: 0.0, min_segment_s: 1.0, min_speed: 0.0, ..config() };
            let shifted: Vec<usize> = cuts(&moving, &rule).into_iter().map(|cut| cut + rest).collect();
            let of_padded = cuts(&padded, &rule);
            prop_assert!(shifted.iter().all(|cut| of_padded.iter().any(|other| other.abs_diff(*cut) <= 6)));
        }
    }
}
