//! From the gripper's aperture to skill segments.
//!
//! A *contact* is a stretch of frames in which the hand is closed around something, or closed at all. A *segment* is
//! one full cycle of no contact and then contact (arXiv 2603.10422): approach, grasp, move, let go.
//!
//! - A cycle ends with the last frame of its contact; the next one begins with the frame after. So cuts lie where the
//!   hand lets go.
//! - The first segment begins with the demonstration and the last one ends with it: the way back after the last contact
//!   belongs to the last segment.
//! - A contact at the very first frame has no free motion before it. It makes no cycle of its own and belongs to the
//!   first one.
//! - A contact that lasts until the end of the recording completes its cycle.
//! - A hand that opens for a moment only has re-grasped: the two contacts are one. A contact of a moment only is none.
//!   Openings are judged first, so that a signal that chatters around a threshold is one contact.

use std::ops::Range;

use crate::config::{GripperConfig, SegmentConfig};

/// Part of a demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its frames.
    pub frames: Range<usize>,
    /// Frames of the contact in it; empty, at the end, if it has none, as a segment found by motion.
    pub contact: Range<usize>,
}

/// Thresholds and times in the units of a signal: metres and frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContactRule {
    /// Width of the open hand, metres.
    pub open_m: f32,
    /// Closing by this much begins a contact, metres.
    pub contact_m: f32,
    /// Closing by less than this ends it, metres.
    pub release_m: f32,
    /// Openings shorter than this are re-grasps.
    pub min_open: usize,
    /// Contacts shorter than this are none.
    pub min_contact: usize,
}

impl ContactRule {
    /// The rule for a signal of `fps` values a second.
    pub fn new(gripper: &GripperConfig, segment: &SegmentConfig, fps: u32) -> Self {
        Self {
            open_m: gripper.open_m,
            contact_m: gripper.contact_m,
            release_m: gripper.release_m,
            min_open: frames(segment.min_open_s, fps),
            min_contact: frames(segment.min_contact_s, fps),
        }
    }
}

/// Frames in a time, rounded.
pub(crate) fn frames(seconds: f32, fps: u32) -> usize {
    (f64::from(seconds) * f64::from(fps)).round() as usize
}

/// The contacts in a signal of apertures (metres), in order, disjoint, none empty.
pub fn contacts(apertures_m: &[f32], rule: &ContactRule) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut begin = None;
    for (frame, aperture_m) in apertures_m.iter().enumerate() {
        let closed_m = rule.open_m - aperture_m;
        match begin {
            None if closed_m >= rule.contact_m => begin = Some(frame),
            Some(first) if closed_m < rule.release_m => {
                found.push(first..frame);
                begin = None;
            }
            _ => {}
        }
    }
    found.extend(begin.map(|first| first..apertures_m.len()));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for contact in found {
        match merged.last_mut() {
            Some(last) if contact.start - last.end < rule.min_open => last.end = contact.end,
            _ => merged.push(contact),
        }
    }
    merged.retain(|contact| contact.len() >= rule.min_contact);
    merged
}

/// The segments of a demonstration of `frames` frames, in order, disjoint, without gaps; none if no cycle is complete.
pub fn cycles(frames: usize, contacts: &[Range<usize>]) -> Vec<Segment> {
    let complete: Vec<&Range<usize>> = contacts.iter().filter(|contact| contact.start > 0).collect();
    let last = complete.len().saturating_sub(1);
    let mut start = 0;
    let cut = |(index, contact): (usize, &&Range<usize>)| {
        let end = if index == last { frames } else { contact.end };
        let segment = Segment { frames: start..end, contact: (*contact).clone() };
        start = end;
        segment
    };
    complete.iter().enumerate().map(cut).collect()
}

/// The segments of a demonstration if contacts cut where they begin, too: each segment of [`cycles`] in two.
pub fn phases(frames: usize, contacts: &[Range<usize>]) -> Vec<Segment> {
    let halves = |cycle: Segment| {
        let (reach, grasp) = (cycle.frames.start..cycle.contact.start, cycle.contact.start..cycle.frames.end);
        [Segment { contact: reach.end..reach.end, frames: reach }, Segment { frames: grasp, contact: cycle.contact }]
    };
    cycles(frames, contacts).into_iter().flat_map(halves).collect()
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one segment is a list of one range")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: ContactRule =
        ContactRule { open_m: 0.08, contact_m: 0.05, release_m: 0.04, min_open: 3, min_contact: 2 };

    /// Apertures from a drawing: `o` open, `c` closed, `h` between the two thresholds.
    fn drawn(drawing: &str) -> Vec<f32> {
        drawing
            .chars()
            .map(|step| match step {
                'o' => 0.08,
                'c' => 0.0,
                _ => 0.035,
            })
            .collect()
    }

    fn found(drawing: &str) -> Vec<Range<usize>> {
        let apertures = drawn(drawing);
        cycles(apertures.len(), &contacts(&apertures, &RULE)).into_iter().map(|segment| segment.frames).collect()
    }

    #[test]
    fn a_cycle_ends_where_the_hand_lets_go_and_the_last_one_with_the_demonstration() {
        assert_eq!(found("ooooccccooooo"), [0..13]);
        assert_eq!(found("ooooccccooooccccooo"), [0..8, 8..19]);
        assert_eq!(contacts(&drawn("ooooccccooo"), &RULE), [4..8]);
    }

    #[test]
    fn a_contact_at_the_first_frame_belongs_to_the_first_cycle_and_makes_none() {
        assert_eq!(found("cccooooccccooo"), [0..14]);
        assert_eq!(found("cccoooo"), Vec::<Range<usize>>::new());
        assert_eq!(found("ccccccc"), Vec::<Range<usize>>::new());
    }

    #[test]
    fn a_contact_until_the_end_completes_its_cycle() {
        assert_eq!(found("oooccccooooccc"), [0..7, 7..14]);
    }

    #[test]
    fn a_short_opening_is_a_regrasp_and_a_short_contact_is_none() {
        assert_eq!(found("oooccccooccccooo"), [0..16]);
        assert_eq!(contacts(&drawn("oooccccooccccooo"), &RULE), [3..13]);
        assert_eq!(found("ooooocooooooccccooo"), [0..19]);
        assert_eq!(contacts(&drawn("oooococococooo"), &RULE), [4..11]);
    }

    #[test]
    fn between_the_thresholds_the_state_stays() {
        assert_eq!(contacts(&drawn("ooohhhooo"), &RULE), Vec::<Range<usize>>::new());
        assert_eq!(contacts(&drawn("ooocchhhhhhooo"), &RULE), [3..11]);
    }

    #[test]
    fn the_threshold_itself_is_contact() {
        let rule = ContactRule { min_contact: 1, ..RULE };
        assert_eq!(contacts(&[0.5, 0.25], &ContactRule { open_m: 0.5, contact_m: 0.25, ..rule }), [1..2]);
    }

    #[test]
    fn phases_cut_where_the_hand_closes_too() {
        let apertures = drawn("ooooccccooooccccooo");
        let found = phases(apertures.len(), &contacts(&apertures, &RULE));
        let frames: Vec<_> = found.iter().map(|segment| segment.frames.clone()).collect();
        assert_eq!(frames, [0..4, 4..8, 8..12, 12..19]);
        assert_eq!((found[0].contact.clone(), found[1].contact.clone()), (4..4, 4..8));
    }

    #[test]
    fn an_empty_demonstration_has_no_segment() {
        assert_eq!(found(""), Vec::<Range<usize>>::new());
    }

    fn apertures() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(prop_oneof![Just(0.08_f32), Just(0.0), Just(0.035), -1.0..1.0_f32], 0..120)
    }

    proptest! {
        #[test]
        fn segments_are_ordered_disjoint_and_cover_the_demonstration(apertures in apertures()) {
            let contacts = contacts(&apertures, &RULE);
            let segments = cycles(apertures.len(), &contacts);
            let mut end = 0;
            for segment in &segments {
                prop_assert_eq!(segment.frames.start, end);
                prop_assert!(segment.frames.start < segment.contact.start);
                prop_assert!(segment.contact.len() >= RULE.min_contact);
                prop_assert!(segment.contact.end <= segment.frames.end);
                end = segment.frames.end;
            }
            prop_assert!(segments.is_empty() || end == apertures.len());
            let halves = phases(apertures.len(), &contacts);
            prop_assert!(halves.windows(2).all(|pair| pair[0].frames.end == pair[1].frames.start));
            prop_assert!(halves.iter().all(|half| !half.frames.is_empty()) && halves.len() == 2 * segments.len());
            prop_assert_eq!(segments.len(), contacts.iter().filter(|contact| contact.start > 0).count());
        }

        #[test]
        fn waiting_with_an_open_hand_before_and_after_moves_no_cut(
            middle in apertures(), before in 0_usize..20, after in 0_usize..20,
        ) {
            let open = [0.08_f32; 20];
            // An opening at either end that is long enough to be one, so that what is added cannot complete it.
            let apertures = [&open[..RULE.min_open], &middle, &open[..RULE.min_open]].concat();
            let longer = [&open[..before], &apertures, &open[..after]].concat();
            let cuts = |signal: &[f32]| {
                let segments = cycles(signal.len(), &contacts(signal, &RULE));
                segments.iter().skip(1).map(|segment| segment.frames.start).collect::<Vec<_>>()
            };
            let shifted: Vec<usize> = cuts(&apertures).into_iter().map(|cut| cut + before).collect();
            prop_assert_eq!(cuts(&longer), shifted);
        }

        #[test]
        fn values_that_are_no_numbers_do_not_break_it(values in prop::collection::vec(any::<f32>(), 0..60)) {
            let segments = cycles(values.len(), &contacts(&values, &RULE));
            prop_assert!(segments.last().is_none_or(|last| last.frames.end == values.len()));
        }
    }
}
