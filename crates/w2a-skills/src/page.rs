//! `skills.html`: the numbers, the lengths, and filmstrips to see whether the cuts are where they should be.

use std::collections::{BTreeMap, BTreeSet};

use w2a_data::{Camera, Episode};
use w2a_report::svg::{Emphasis, LinePlot};
use w2a_report::{Align, Cell, Html, ImageError, Picture, Report, StripRow, Table};

use crate::config::Config;
use crate::lengths::Lengths;
use crate::signal::apertures;
use crate::summary::{Summary, Task};
use crate::survey::{Demonstration, Survey};

/// Longest side of a frame of a filmstrip, pixels; larger images are thinned.
const MAX_SIDE: usize = 96;
/// Height of the bar below a frame, pixels, and of the darker part of it that says contact.
const BAR: usize = 6;
/// Colours of clips, by number; the same ones again after the last.
const COLOURS: [[u8; 3]; 6] =
    [[15, 107, 116], [183, 116, 42], [90, 95, 174], [168, 70, 106], [91, 131, 64], [61, 127, 184]];
/// Colour of the bar of a demonstration that was dropped.
const GREY: [u8; 3] = [150, 150, 150];

/// The filmstrips of a page, filled while demonstrations are read for the second time.
pub(crate) struct Gallery {
    /// Numbers of the demonstrations that are shown.
    shown: BTreeSet<usize>,
    /// Whether it would have been more.
    is_full: bool,
    rows: BTreeMap<usize, StripRow>,
    /// For each instruction the aperture of the first one that is shown.
    traces: BTreeMap<String, Html>,
}

impl Gallery {
    /// Chooses what is shown: of every instruction the first kept and the first dropped demonstrations.
    pub fn choose(survey: &Survey, config: &Config) -> Self {
        let mut counts: BTreeMap<(&str, bool), usize> = BTreeMap::new();
        let (mut shown, mut is_full) = (BTreeSet::new(), false);
        for one in &survey.demonstrations {
            let count = counts.entry((&one.instruction, one.outcome.is_ok())).or_default();
            if *count >= config.page.rows_per_task {
                continue;
            }
            is_full |= shown.len() >= config.page.rows;
            if shown.len() < config.page.rows {
                *count += 1;
                shown.insert(one.index);
            }
        }
        Self { shown, is_full, rows: BTreeMap::new(), traces: BTreeMap::new() }
    }

    /// Whether this demonstration is shown.
    pub fn wants(&self, index: usize) -> bool {
        self.shown.contains(&index)
    }

    /// Adds a demonstration that is shown.
    pub fn add(&mut self, one: &Demonstration, episode: &Episode, config: &Config) -> Result<(), ImageError> {
        if let Some(camera) = camera(episode, &config.page.camera) {
            let steps = spread(episode.len(), config.page.frames_per_row);
            let frames = steps.into_iter().map(|step| marked(camera, step, one)).collect::<Result<Vec<_>, _>>()?;
            let became = match &one.outcome {
                Ok(clips) if clips.len() == 1 => "1 clip".to_owned(),
                Ok(clips) => format!("{} clips", clips.len()),
                Err(reason) => format!("dropped: {reason}"),
            };
            self.rows.insert(one.index, StripRow { label: format!("{}: {became}", one.index), frames });
        }
        let values = apertures(episode, config);
        if !values.is_empty() && !self.traces.contains_key(&one.instruction) {
            self.traces.insert(one.instruction.clone(), trace(&values, one, episode.fps, config));
        }
        Ok(())
    }

    /// The page.
    pub fn page(&self, summary: &Summary, survey: &Survey) -> Result<Report, ImageError> {
        let outcome = format!(
            "{} of {} demonstrations were cut into {} clips: a synchronisation rate of {:.1} %.",
            summary.kept, summary.demonstrations, summary.clips, summary.pc_kept
        );
        let mut page = Report::new("Skills", &outcome).kicker(&summary.source.name).section("Numbers");
        for note in &summary.notes {
            page = page.note(note);
        }
        page = page.facts(&facts(summary)).plot(&histograms(summary), "How long demonstrations and clips are.");
        if !summary.dropped.is_empty() || !summary.unreadable.is_empty() {
            page = page.table(&dropped(summary), "Why demonstrations are not used, and which ones.");
        }
        page = page.section("Cuts").prose(
            "One row is one demonstration, named by its number. The bar below a frame has one colour for each clip, \
             and it is full where the gripper is in contact, thin where it is not. Grey: dropped.",
        );
        if self.is_full {
            page = page.prose("Not every instruction is shown: `skills.page.rows` is the limit.");
        }
        for task in &summary.tasks {
            page = self.task(page, task, survey)?;
        }
        Ok(page)
    }

    fn task(&self, page: Report, task: &Task, survey: &Survey) -> Result<Report, ImageError> {
        let of_task = survey.demonstrations.iter().filter(|one| one.instruction == task.instruction);
        let rows: Vec<StripRow> = of_task.filter_map(|one| self.rows.get(&one.index).cloned()).collect();
        let trace = self.traces.get(&task.instruction);
        if rows.is_empty() && trace.is_none() {
            return Ok(page);
        }
        let mut page = page.heading(&task.instruction);
        let prompts: Vec<String> =
            task.prompts.iter().enumerate().map(|(number, prompt)| format!("{}. {prompt}", number + 1)).collect();
        let shown =
            format!("{} of {} kept, {} shown. {}", task.kept, task.demonstrations, rows.len(), prompts.join(" · "));
        if !rows.is_empty() {
            page = page.filmstrip(&rows, &shown)?;
        }
        if let Some(trace) = trace {
            page = page.plot(trace, "How far the hand is closed in the first of these, with the thresholds.");
        }
        Ok(page)
    }
}

/// The camera of that name, or the first.
fn camera<'a>(episode: &'a Episode, name: &str) -> Option<&'a Camera> {
    episode.cameras.iter().find(|camera| name.is_empty() || camera.name == name)
}

/// At most `count` frames at even distances, the first and the last among them.
fn spread(frames: usize, count: usize) -> Vec<usize> {
    if frames <= count || count < 2 {
        return (0..frames.min(count)).collect();
    }
    (0..count).map(|number| number * (frames - 1) / (count - 1)).collect()
}

/// A frame with the bar of its clip.
fn marked(camera: &Camera, step: usize, one: &Demonstration) -> Result<Picture, ImageError> {
    let stride = camera.height.max(camera.width).div_ceil(MAX_SIDE).max(1);
    let (height, width) = (camera.height.div_ceil(stride), camera.width.div_ceil(stride));
    let image = camera.frame(step);
    let mut rgb = Vec::with_capacity((height + BAR) * width * 3);
    for row in (0..camera.height).step_by(stride) {
        for column in (0..camera.width).step_by(stride) {
            let at = (row * camera.width + column) * 3;
            rgb.extend_from_slice(image.get(at..at + 3).unwrap_or(&GREY));
        }
    }
    let colour = match &one.outcome {
        Ok(clips) => {
            let number = clips.iter().position(|clip| clip.frames.contains(&step)).unwrap_or(0);
            COLOURS[number % COLOURS.len()]
        }
        Err(_) => GREY,
    };
    let is_contact = one.analysis.segments.iter().any(|segment| segment.contact.contains(&step));
    for line in 0..BAR {
        // A white line sets the bar off from the picture.
        let is_drawn = line >= if is_contact { 1 } else { BAR / 2 + 1 };
        rgb.extend(std::iter::repeat_n(if is_drawn { colour } else { [255; 3] }, width).flatten());
    }
    Picture::from_rgb(height + BAR, width, &rgb)
}

/// How far the hand is closed over the first shown demonstration of an instruction.
fn trace(apertures_m: &[f32], one: &Demonstration, fps: u32, config: &Config) -> Html {
    let gripper = &config.gripper;
    let at = |frame: usize| frame as f64 / f64::from(fps.max(1));
    let millimetres = |metres: f32| f64::from(metres) * 1000.0;
    let points: Vec<(f64, f64)> = apertures_m
        .iter()
        .enumerate()
        .map(|(frame, aperture_m)| (at(frame), millimetres(gripper.open_m - aperture_m)))
        .collect();
    let level = |metres: f32| [(0.0, millimetres(metres)), (at(apertures_m.len()), millimetres(metres))];
    LinePlot::new(&format!("Demonstration {}", one.index), "seconds", "closed by, mm")
        .series("hand", &points)
        .series("contact begins", &level(gripper.contact_m))
        .series("contact ends", &level(gripper.release_m))
        .render()
}

/// Both histograms on one axis.
fn histograms(summary: &Summary) -> Html {
    LinePlot::new("Lengths before and after", "seconds", "how many")
        .series("demonstrations", &outline(&summary.lengths_before))
        .series("clips", &outline(&summary.lengths_after))
        .include_y(0.0, 1.0)
        .render()
}

/// A histogram as the outline of its columns.
fn outline(lengths: &Lengths) -> Vec<(f64, f64)> {
    let mut outline = vec![(0.0, 0.0)];
    for (bin, count) in lengths.counts.iter().enumerate() {
        let (from, to) = (bin as f64 * lengths.bin_s, (bin + 1) as f64 * lengths.bin_s);
        outline.extend([(from, *count as f64), (to, *count as f64)]);
    }
    let end = outline.last().map_or(0.0, |last| last.0);
    outline.push((end, 0.0));
    outline
}

fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let lengths = |lengths: &Lengths| {
        format!("{:.1} s to {:.1} s, median {:.1} s", lengths.min_s, lengths.max_s, lengths.median_s)
    };
    let interval = summary.ci95.map_or(String::new(), |[lo, hi]| format!(", 95 % interval {lo:.1} to {hi:.1}"));
    let signals = summary.signals.iter().map(|(signal, count)| format!("{count} by {signal}"));
    let mut facts = vec![
        ("kept", format!("{} of {}{interval}", summary.kept, summary.demonstrations)),
        ("signal", signals.collect::<Vec<_>>().join(", ")),
        ("demonstrations", lengths(&summary.lengths_before)),
        ("clips", lengths(&summary.lengths_after)),
        ("embodiment", format!("`{}`", summary.settings.embodiment)),
        ("source", format!("{} episodes, fingerprint `{}`", summary.source.episodes, summary.source.fingerprint)),
    ];
    if let Some(counts) = summary.language_model {
        let model = &summary.settings.llm.model;
        facts.push((
            "language model",
            format!("`{model}`: {} requests, {} answers kept from before", counts.requests, counts.cached),
        ));
    }
    facts
}

fn dropped(summary: &Summary) -> Table {
    let list = |episodes: &[usize]| {
        let first: Vec<String> = episodes.iter().take(12).map(ToString::to_string).collect();
        let more = if episodes.len() > first.len() { ", …" } else { "" };
        first.join(", ") + more
    };
    let mut table = Table::new(&[("reason", Align::Text), ("demonstrations", Align::Number), ("which", Align::Text)]);
    for dropped in &summary.dropped {
        let cells =
            [Cell::from(dropped.words), Cell::from(dropped.count.to_string()), Cell::from(list(&dropped.episodes))];
        table = table.row(Emphasis::Normal, cells);
    }
    for unreadable in &summary.unreadable {
        let reason = Cell::with_note("it could not be read", unreadable.error.clone());
        table = table.row(Emphasis::Quiet, [reason, Cell::from("1"), Cell::from(unreadable.episode.to_string())]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_of_a_histogram_begins_and_ends_on_the_ground() {
        let lengths = Lengths::of(&[0.5, 1.5, 1.6], 1.0);
        assert_eq!(outline(&lengths), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (2.0, 0.0)]);
        assert_eq!(outline(&Lengths::default()), [(0.0, 0.0); 2]);
    }

    #[test]
    fn frames_are_spread_over_the_whole_and_never_past_the_end() {
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(3, 12), [0, 1, 2]);
        assert_eq!(spread(100, 1), [0]);
        assert_eq!(spread(0, 4), Vec::<usize>::new());
    }
}
