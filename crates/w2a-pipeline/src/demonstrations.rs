//! Demonstrations of LIBERO as the datasets of a run: its images in the size of the embedded models, several actions of
//! the simulator in one, all episodes of one length.

use std::collections::BTreeMap;

use w2a_data::{Camera, DatasetSpec, DatasetWriter, Episode, Source, Version};
use w2a_serve::simulator::Flip;
use w2a_sim::{ACTION_WIDTH, Range, Scene, Split, Suite};

use crate::PipelineError;
use crate::arms::Arm;
use crate::context::{Context, save_json};
use crate::data::{NARROW, ORACLE, VIDEO};
use crate::environment::LiberoSection;

/// Values of LIBERO's state: position, axis and angle, two fingers.
const STATE: usize = 8;
/// Its actions a second.
const FPS: u32 = 20;
/// Its cameras, as GR00T calls them.
const CAMERAS: [&str; 2] = ["image", "wrist_image"];

/// What became of the demonstrations of a task.
#[derive(Default, serde::Serialize)]
struct Taken {
    demonstrations: usize,
    /// Those that were longer than `env.libero.demo_steps`.
    cut: usize,
    /// Those that were shorter.
    padded: usize,
}

/// What is taken from a dataset: of every task the first demonstrations, so many of them.
struct Wanted<'a> {
    path: &'a str,
    /// The setting that names it.
    key: &'a str,
    least: usize,
    most: usize,
    /// How demonstration `i` of a task is named in the run.
    names: (Split, Range),
}

/// Writes the datasets of a run that are not there: of every task the first demonstrations with actions, the next ones
/// as action-free video.
pub(crate) fn import(context: &Context) -> Result<(), PipelineError> {
    let data = &context.config.data;
    let (libero, missing) = (&context.config.env.libero, |name: &str| !context.path(name).exists());
    if missing(NARROW) || data.videos > 0 && missing(VIDEO) {
        context.progress.part(NARROW);
        let mut corpora = [Corpus::new(context, NARROW), Corpus::new(context, VIDEO)];
        let all = data.labelled + data.videos;
        let names = (Split::Train, Range::Demo);
        let wanted = Wanted { path: &libero.dataset, key: "env.libero.dataset", least: all, most: all, names };
        let taken = take(context, &wanted, |number, episode| {
            let [labelled, videos] = &mut corpora;
            if number < data.labelled { labelled.push(episode) } else { videos.push(without_actions(episode)) }
        })?;
        corpora.into_iter().try_for_each(Corpus::finish)?;
        save_json(&context.path("data/demonstrations.json"), &taken)?;
    }
    if !libero.expert_dataset.is_empty() && missing(ORACLE) {
        context.progress.part(ORACLE);
        let mut corpus = Corpus::new(context, ORACLE);
        // Only the oracle needs the expert in every scene; for errors some will do.
        let most = data.posttrain_scenes;
        let least = if Arm::Oracle.takes_part(&context.config) { most } else { 1 };
        let names = (Split::Posttrain, Range::Seed);
        let wanted = Wanted { path: &libero.expert_dataset, key: "env.libero.expert_dataset", least, most, names };
        take(context, &wanted, |_, episode| corpus.push(without_actions(episode)))?;
        corpus.finish()?;
    }
    Ok(())
}

fn without_actions(episode: Episode) -> Episode {
    Episode { action_dim: 0, actions: Vec::new(), ..episode }
}

/// Hands on demonstrations with their number in their task, task by task within a number.
fn take(
    context: &Context,
    wanted: &Wanted,
    mut write: impl FnMut(usize, Episode) -> Result<(), PipelineError>,
) -> Result<BTreeMap<String, Taken>, PipelineError> {
    let libero = &context.config.env.libero;
    let source = Source::open(wanted.path)?;
    let wrong = |expected: String, got: String| PipelineError::Config { key: wanted.key.to_owned(), expected, got };
    if matches!(source, Source::Hdf5(_)) && libero.flip != Flip::Vertical {
        let expected = "vertical where demonstrations are HDF5 files: those are read upright".into();
        let got = format!("{:?}", libero.flip);
        return Err(PipelineError::Config { key: "env.libero.flip".into(), expected, got });
    }
    let scene = |(suite, task), number: usize| {
        let (split, range) = wanted.names;
        Scene::new(suite, task, split, range, u32::try_from(number).unwrap_or(u32::MAX))
    };
    let tasks = context.config.tasks()?;
    let words = |task: &(Suite, usize)| Ok(scene(*task, 0)?.task_info().instruction);
    let words = tasks.iter().map(words).collect::<Result<Vec<&str>, PipelineError>>()?;
    let mut reader = source.reader();
    // The words of an episode are only known from the episode: each is read once to see whose it is, and the few that are
    // taken once more, so that no more than one is in memory.
    let mut found: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for index in 0..source.len() {
        if found.iter().all(|of_task| of_task.len() >= wanted.most) {
            break;
        }
        let episode = reader.read(index)?;
        let place = words.iter().position(|words| *words == episode.instruction);
        if let Some(of_task) = place.and_then(|place| found.get_mut(place)) {
            of_task.push(index);
        }
        context.progress.tick(index, 2 * source.len(), "looking through demonstrations");
    }
    for (words, of_task) in words.iter().zip(&found) {
        if of_task.len() < wanted.least {
            let expected = format!("at least {} demonstrations of {words:?}", wanted.least);
            return Err(wrong(expected, format!("{} in {}", of_task.len(), wanted.path)));
        }
    }
    let each = found.iter().map(Vec::len).min().unwrap_or(0).min(wanted.most);
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    for number in 0..each {
        for ((task, words), of_task) in tasks.iter().zip(&words).zip(&found) {
            let Some(&index) = of_task.get(number) else { continue };
            let read = reader.read(index)?;
            let record = taken.entry((*words).to_owned()).or_default();
            record.demonstrations += 1;
            record.cut += usize::from(read.len() > libero.demo_steps);
            record.padded += usize::from(read.len() < libero.demo_steps);
            let camera = |name: &str| source.gr00t_camera(name).to_owned();
            let problem = |(expected, got)| wrong(expected, format!("{got} in demonstration {index}"));
            let episode = stacked(&read, libero, camera).map_err(problem)?;
            write(number, Episode { source: scene(*task, number)?.to_string(), ..episode })?;
        }
        context.progress.tick(each + number, 2 * each, "taking over demonstrations");
    }
    Ok(taken)
}

/// A demonstration of the simulator as one of the run: every `stride`-th observation with the actions up to the next,
/// `demo_steps` in all. What is missing at its end is stood still, with the gripper as it was.
///
/// # Errors
/// What was expected and what is there: other widths, another rate, other cameras, images of a side that is no multiple
/// of the models'.
fn stacked(
    episode: &Episode,
    libero: &LiberoSection,
    name: impl Fn(&str) -> String,
) -> Result<Episode, (String, String)> {
    let frames = episode.len();
    if (episode.proprio_dim, episode.action_dim, episode.fps) != (STATE, ACTION_WIDTH, FPS) || frames == 0 {
        let expected = format!("{STATE} values of the state and {ACTION_WIDTH} of the action, {FPS} times a second");
        let (state, action, fps) = (episode.proprio_dim, episode.action_dim, episode.fps);
        return Err((expected, format!("{state} and {action} at {fps} a second, {frames} frames,")));
    }
    episode.validate().map_err(|error| ("complete and finite demonstrations".into(), error.to_string()))?;
    let steps = libero.demo_steps / libero.stride.max(1);
    let seen: Vec<usize> = (0..steps).map(|step| (step * libero.stride).min(frames - 1)).collect();
    let mut cameras = Vec::with_capacity(CAMERAS.len());
    for wanted in CAMERAS {
        let camera = episode.cameras.iter().find(|camera| name(&camera.name) == wanted);
        let sides = |camera: &Camera| format!("{} of {}x{}", camera.name, camera.height, camera.width);
        let small = camera.filter(|camera| camera.height == camera.width).and_then(|camera| {
            let rgb = seen.iter().flat_map(|&frame| camera.frame(frame)).copied().collect();
            let few = Camera { name: wanted.to_owned(), rgb, ..*camera };
            few.reduced(camera.height / libero.side.max(1)).filter(|small| small.height == libero.side)
        });
        let there: Vec<String> = episode.cameras.iter().map(sides).collect();
        let expected =
            || format!("a camera {wanted} with square images of a side that is a multiple of {}", libero.side);
        cameras.push(small.ok_or_else(|| (expected(), there.join(", ")))?);
    }
    let mut rest = vec![0.0; ACTION_WIDTH];
    if let (Some(last), Some(hand)) = (episode.action(frames - 1).last(), rest.last_mut()) {
        *hand = *last;
    }
    let action = |step: usize| if step < frames { episode.action(step) } else { rest.as_slice() };
    Ok(Episode {
        instruction: episode.instruction.clone(),
        source: String::new(),
        fps: FPS / libero.stride.max(1) as u32,
        cameras,
        proprio_dim: STATE,
        proprio: seen.iter().flat_map(|&frame| episode.proprio(frame)).copied().collect(),
        action_dim: ACTION_WIDTH * libero.stride,
        actions: (0..steps * libero.stride).flat_map(action).copied().collect(),
    })
}

/// A dataset of the run that is being written, or is there already.
struct Corpus<'a> {
    context: &'a Context,
    name: &'static str,
    writer: Option<DatasetWriter>,
    is_done: bool,
}

impl<'a> Corpus<'a> {
    fn new(context: &'a Context, name: &'static str) -> Self {
        Self { context, name, writer: None, is_done: context.path(name).exists() }
    }

    fn push(&mut self, episode: Episode) -> Result<(), PipelineError> {
        if self.is_done {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                self.context.folder("data")?;
                let version = Version::from_name(&self.context.config.data.lerobot_version).unwrap_or(Version::V30);
                let spec = DatasetSpec::of(&episode);
                self.writer.insert(DatasetWriter::create(self.context.path(self.name), spec, version)?)
            }
        };
        Ok(writer.push(&episode)?)
    }

    fn finish(self) -> Result<(), PipelineError> {
        self.writer.map_or(Ok(()), |writer| Ok(writer.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use w2a_data::{Camera, Episode};

    use super::stacked;
    use crate::environment::LiberoSection;

    fn episode(frames: usize, side: usize) -> Episode {
        let image = |value: usize| vec![value as u8; side * side * 3];
        let camera = |name: &str, plus: usize| Camera {
            name: name.into(),
            height: side,
            width: side,
            rgb: (0..frames).flat_map(|frame| image(frame + plus)).collect(),
        };
        Episode {
            instruction: "pick".into(),
            source: String::new(),
            fps: 20,
            cameras: vec![camera("wrist_image", 100), camera("image", 0)],
            proprio_dim: 8,
            proprio: (0..frames * 8).map(|value| value as f32).collect(),
            action_dim: 7,
            actions: (0..frames * 7).map(|value| value as f32).collect(),
        }
    }

    fn section(stride: usize, demo_steps: usize) -> LiberoSection {
        LiberoSection { stride, demo_steps, ..LiberoSection::default() }
    }

    #[test]
    fn every_second_image_stands_with_two_actions_and_a_short_one_rests() {
        let made = stacked(&episode(5, 128), &section(2, 8), str::to_owned).unwrap();
        made.validate().unwrap();
        assert_eq!((made.len(), made.action_dim, made.fps), (4, 14, 10));
        assert_eq!((made.cameras[0].name.as_str(), made.cameras[0].height), ("image", 64));
        let seen: Vec<u8> = (0..4).map(|frame| made.cameras[1].frame(frame)[0]).collect();
        assert_eq!(seen, [100, 102, 104, 104]);
        assert_eq!(made.action(1), (14..28).map(|value| value as f32).collect::<Vec<_>>());
        assert_eq!(made.action(2)[7..], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 34.0]);
        assert_eq!(made.action(3)[..7], made.action(2)[7..]);
        assert_eq!(made.proprio(3), made.proprio(2));
        assert_eq!(stacked(&episode(9, 64), &section(2, 4), str::to_owned).unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_liberos_is_refused_with_what_is_there() {
        let refused = |episode: &Episode| stacked(episode, &section(2, 8), str::to_owned).unwrap_err();
        let (expected, got) = refused(&episode(5, 100));
        assert!(expected.contains("multiple of 64") && got.contains("image of 100x100"), "{expected} {got}");
        let mut other = episode(5, 64);
        other.cameras.remove(0);
        assert!(refused(&other).0.contains("wrist_image"));
        let mut other = episode(5, 64);
        (other.action_dim, other.actions) = (12, vec![0.0; 60]);
        assert!(refused(&other).1.contains("8 and 12 at 20"));
        assert!(refused(&Episode { fps: 10, ..episode(5, 64) }).1.contains("at 10 a second"));
        let mut other = episode(5, 64);
        other.actions[3] = f32::NAN;
        assert!(refused(&other).1.contains("not finite"));
        assert!(refused(&episode(0, 64)).1.contains("0 frames"));
    }
}
