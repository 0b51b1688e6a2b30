//! From a dataset of demonstrations to a dataset of skills.

use std::path::{Path, PathBuf};

use w2a_data::{DatasetWriter, Source, Version};
use w2a_report::Progress;

use crate::answer::parse_split;
use crate::chat::{Chat, key_from_environment};
use crate::clip::episode_of;
use crate::config::Config;
use crate::error::SkillsError;
use crate::json::write_json;
use crate::matching::Prompter;
use crate::page::Gallery;
use crate::question::{self, Message};
use crate::ranges::{RANGES_FILE, ranges};
use crate::schema::Schema;
use crate::summary::{SourceFacts, Summary};
use crate::survey::Survey;

/// The skill dataset, inside of the output folder.
pub const DATASET_DIR: &str = "dataset";
/// The language model's answers, inside of the output folder.
pub const ANSWERS_DIR: &str = "answers";
/// The numbers, inside of the output folder.
pub const SUMMARY_FILE: &str = "skills.json";
/// The page, inside of the output folder.
pub const PAGE_FILE: &str = "skills.html";

const READING: &str = "reading";
const MATCHING: &str = "matching";
const WRITING: &str = "writing";

/// What to cut.
#[derive(Clone, Debug)]
pub struct Request {
    /// A LeRobot dataset, or HDF5 files of robomimic, LIBERO or RoboCasa.
    pub dataset: PathBuf,
    /// The folder for the result. It may exist, but must not hold a skill dataset yet.
    pub out: PathBuf,
    /// The settings.
    pub config: Config,
    /// Whether demonstrations that cannot be read are left out and counted.
    pub skip_bad: bool,
    /// Whether `video_metadata.json` is written too.
    pub write_ranges: bool,
}

/// What a cut came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The numbers.
    pub summary: Summary,
    /// The page.
    pub page: PathBuf,
    /// The skill dataset.
    pub dataset: PathBuf,
}

/// Cuts demonstrations into skills.
///
/// The demonstrations are read twice: for their signals, then for their frames; one is in memory at a time. The page
/// and the numbers are written first and the dataset takes its place last, so that where it is, all of it is.
///
/// # Errors
/// [`SkillsError`]. Nothing but answers of the language model stays of a run that failed, except that one in which no
/// demonstration was kept leaves the page that shows why.
pub fn run(request: &Request) -> Result<Outcome, SkillsError> {
    let config = &request.config;
    let (source, schema) = open(request)?;
    let destination = request.out.join(DATASET_DIR);
    if destination.symlink_metadata().is_ok() {
        return Err(SkillsError::Exists { path: request.out.clone() });
    }
    let mut chat = if config.llm.enabled {
        let key = key_from_environment(&config.llm)?;
        Some(Chat::new(&config.llm, key, &request.out.join(ANSWERS_DIR))?)
    } else {
        None
    };
    let progress = Progress::new(&[(READING, 1.0), (MATCHING, 0.5), (WRITING, 3.0)]);
    progress.start(READING);
    let mut survey = Survey::read(&source, config, request.skip_bad, &progress)?;
    progress.finish(READING);
    progress.start(MATCHING);
    survey.decide(&mut Prompter::new(schema, chat.as_mut(), config.segment.cut), &progress)?;
    progress.finish(MATCHING);
    progress.start(WRITING);
    let mut gallery = Gallery::choose(&survey, config);
    let writer = write_clips(&source, &survey, &mut gallery, request, &progress)?;
    let counts = chat.map(|chat| chat.counts());
    let summary = Summary::of(&survey, facts(&source, &survey)?, counts, config);
    let page = request.out.join(PAGE_FILE);
    gallery.page(&summary, &survey)?.save(&page)?;
    write_json(&request.out.join(SUMMARY_FILE), &summary)?;
    if request.write_ranges {
        write_json(&request.out.join(RANGES_FILE), &ranges(&survey))?;
    }
    let Some(writer) = writer else {
        let reason = summary.dropped.first().map_or("there is none", |dropped| dropped.words).to_owned();
        return Err(SkillsError::NothingKept { demonstrations: summary.demonstrations, reason, page });
    };
    writer.finish()?;
    progress.finish(WRITING);
    Ok(Outcome { summary, page, dataset: destination })
}

/// What [`run`] would send to the language model, in words. Nothing is sent and nothing is written.
///
/// Questions that depend on an answer that is not known yet are counted, not shown.
///
/// # Errors
/// As [`run`], up to the first request.
pub fn dry_run(request: &Request) -> Result<String, SkillsError> {
    let config = &request.config;
    let (source, schema) = open(request)?;
    let progress = Progress::new(&[(READING, 1.0)]);
    progress.start(READING);
    let survey = Survey::read(&source, config, request.skip_bad, &progress)?;
    progress.finish(READING);
    let chat = match config.llm.enabled {
        true => Some(Chat::new(&config.llm, None, &request.out.join(ANSWERS_DIR))?),
        false => None,
    };
    let mut text = Vec::new();
    let (mut shown, mut waiting) = (0, 0);
    for (instruction, seen) in survey.segments_seen() {
        let counts: Vec<String> =
            seen.iter().map(|(segments, count)| format!("{count} with {segments} segment(s)")).collect();
        text.push(format!("{instruction:?}: {}", counts.join(", ")));
        let asked = question::split(&instruction, &seen, config.segment.cut);
        let prompts = match (schema.as_ref().and_then(|schema| schema.prompts(&instruction)), &chat) {
            (Some(prompts), _) => Some(prompts.to_vec()),
            (None, Some(chat)) => chat.cached(asked.clone(), parse_split),
            (None, None) => None,
        };
        let more_than = prompts.as_ref().map_or(1, Vec::len);
        let ambiguous = survey.demonstrations.iter().filter(|one| one.instruction == instruction);
        let ambiguous = ambiguous.filter(|one| one.analysis.segments.len() > more_than);
        match (&prompts, &chat) {
            (None, None) => text.push("  not in the prompts file: these demonstrations would be dropped".into()),
            (None, Some(_)) => {
                (shown, waiting) = (shown + 1, waiting + ambiguous.count());
                text.push(told(&asked));
            }
            (Some(prompts), _) => {
                text.extend(prompts.iter().enumerate().map(|(number, prompt)| format!("  {}. {prompt}", number + 1)));
                for one in ambiguous.filter(|_| chat.is_some()) {
                    shown += 1;
                    text.push(format!("  demonstration {}:", one.index));
                    text.push(told(&question::pairing(&instruction, prompts, &one.analysis, survey.fps)));
                }
            }
        }
    }
    text.push(match &chat {
        None => "The language model is off: nothing would be sent.".into(),
        Some(_) => format!(
            "{shown} question(s) to {:?} at {}, fewer where questions are alike or answers are kept from before, and \
             at most {waiting} that follow from the answers. Nothing was sent.",
            config.llm.model, config.llm.base_url
        ),
    });
    Ok(text.join("\n"))
}

/// A question as it would be sent, indented.
fn told(messages: &[Message]) -> String {
    let lines =
        messages.iter().map(|message| format!("    {}: {}", message.role, message.content.replace('\n', "\n      ")));
    lines.collect::<Vec<_>>().join("\n")
}

/// Checks the settings, and opens what is read.
fn open(request: &Request) -> Result<(Source, Option<Schema>), SkillsError> {
    request.config.validate()?;
    let path = &request.config.schema;
    let schema = if path.is_empty() { None } else { Some(Schema::read(Path::new(path))?) };
    let source = Source::open(&request.dataset)?;
    request.config.fits(source.spec())?;
    Ok((source, schema))
}

/// The second pass: writes every clip and fills the page's gallery. `None` if there is no clip.
fn write_clips(
    source: &Source,
    survey: &Survey,
    gallery: &mut Gallery,
    request: &Request,
    progress: &Progress,
) -> Result<Option<DatasetWriter>, SkillsError> {
    let mut writer = None;
    let mut reader = source.reader();
    let total = survey.demonstrations.len() as u64;
    for (done, one) in survey.demonstrations.iter().enumerate() {
        let is_shown = gallery.wants(one.index);
        if !is_shown && one.outcome.is_err() {
            continue;
        }
        let unreadable = |source| SkillsError::BadEpisode { episode: one.index, source: Box::new(source) };
        let demonstration = reader.read(one.index).map_err(unreadable)?;
        if is_shown {
            gallery.add(one, &demonstration, &request.config)?;
        }
        for (number, clip) in one.outcome.iter().flatten().enumerate() {
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    let to = request.out.join(DATASET_DIR);
                    writer.insert(DatasetWriter::create(to, source.spec().clone(), Version::V30)?)
                }
            };
            let clips = one.outcome.as_ref().map_or(0, Vec::len);
            writer.push(&episode_of(&demonstration, one.index, number, clips, clip))?;
        }
        progress.tick(done as u64 + 1, total, "demonstrations");
    }
    Ok(writer)
}

fn facts(source: &Source, survey: &Survey) -> Result<SourceFacts, SkillsError> {
    // The name only: where it lies is nobody's business.
    let name =
        source.path().file_name().map_or_else(|| "demonstrations".into(), |name| name.to_string_lossy().into_owned());
    Ok(SourceFacts {
        name,
        fingerprint: source.fingerprint()?,
        episodes: source.len(),
        frames: survey.frames(),
        fps: source.spec().fps,
    })
}
