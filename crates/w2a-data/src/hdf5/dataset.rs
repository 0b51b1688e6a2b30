//! A set of HDF5 files: planned when opened, read one demonstration at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hdf5_pure::Group as Hdf5Group;
use serde_json::Value;

use super::container::{Array, Container};
use super::error::Hdf5Error;
use super::profile::{Profile, libero_instruction};
use crate::{Camera, CameraSpec, DatasetSpec, Episode};

/// What robosuite's environments run at unless told otherwise; LIBERO, RoboCasa and robomimic all use it.
const ROBOSUITE_HZ: u32 = 20;
/// Largest height or width of an image, and largest number of entries of a row, as in LeRobot datasets.
const MAX_IMAGE_SIDE: usize = 8192;
const MAX_WIDTH: usize = 4096;
/// Deepest folder that is searched, so that a link to a parent ends somewhere.
const MAX_DEPTH: usize = 16;

const RECORD: &str = "the recording is incomplete or from another source; leave the demonstration out";

/// Where one demonstration lies; nothing of it has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoRecord {
    /// Position in the dataset: files by name, demonstrations by number.
    pub index: usize,
    /// The file.
    pub file: PathBuf,
    /// Number in the file: 2 of `demo_2`.
    pub demo: u64,
}

impl DemoRecord {
    fn group(&self) -> String {
        format!("data/demo_{}", self.demo)
    }
}

/// HDF5 files of one source whose structure has been read; no frame has been decoded yet.
#[derive(Debug)]
pub struct Hdf5Dataset {
    path: PathBuf,
    profile: Profile,
    spec: DatasetSpec,
    demos: Vec<DemoRecord>,
}

impl Hdf5Dataset {
    /// Opens a file, or all files below a folder that end in `.hdf5` or `.h5`.
    ///
    /// The source is told by what is inside: an instruction or a task file of LIBERO, a mobile base in the observations
    /// (RoboCasa), the `env_args` of robosuite (robomimic), or none of these (only actions). All files must be of one
    /// source, and all demonstrations are measured against the first that can be read.
    ///
    /// # Errors
    /// [`Hdf5Error`] naming the file that cannot be opened or holds no demonstration, or no readable one at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Hdf5Error> {
        let path = path.as_ref();
        let files = files_below(path)?;
        let mut profile = None;
        let mut demos = Vec::new();
        for file in &files {
            let container = Container::open(file)?;
            let (found, numbers) = plan(&container)?;
            let first = *profile.get_or_insert(found);
            if found != first {
                let what = "source of the file".to_owned();
                let next = "convert the files of one source at a time";
                return Err(Hdf5Error::mismatch(file, what, found, format!("{first}, as the others"), next));
            }
            for demo in numbers {
                demos.push(DemoRecord { index: demos.len(), file: file.clone(), demo });
            }
        }
        let profile = profile.ok_or_else(|| Hdf5Error::NoFiles { path: path.to_owned() })?;
        let spec = first_spec(profile, &demos)?;
        Ok(Self { path: path.to_owned(), profile, spec, demos })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The source, which says what keys and rows mean.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// What its episodes look like: those of the first demonstration that can be read.
    pub fn spec(&self) -> &DatasetSpec {
        &self.spec
    }

    /// Number of demonstrations.
    pub fn len(&self) -> usize {
        self.demos.len()
    }

    /// Whether there is none; never so for an opened dataset.
    pub fn is_empty(&self) -> bool {
        self.demos.is_empty()
    }

    /// Where the demonstrations lie, in the order of [`Hdf5Dataset::episodes`].
    pub fn records(&self) -> &[DemoRecord] {
        &self.demos
    }

    /// The named subsets below `mask`, such as `train` and `valid`, as indices of demonstrations in ascending order.
    ///
    /// # Errors
    /// [`Hdf5Error`] if a subset names a demonstration that its file does not have.
    pub fn splits(&self) -> Result<BTreeMap<String, Vec<usize>>, Hdf5Error> {
        let mut splits: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for same_file in self.demos.chunk_by(|one, next| one.file == next.file) {
            let [first, ..] = same_file else { continue };
            let container = Container::open(&first.file)?;
            let Some(mask) = container.group("mask")? else { continue };
            for split in container.arrays("mask", &mask)? {
                let name = format!("mask/{split}");
                let Some(array) = container.array(&name)? else { continue };
                let members = splits.entry(split).or_default();
                for text in container.texts(&array)? {
                    let named = |record: &&DemoRecord| format!("demo_{}", record.demo) == text;
                    let record = same_file.iter().find(named).ok_or_else(|| {
                        Hdf5Error::mismatch(
                            &first.file,
                            format!("an entry of {name}"),
                            text.clone(),
                            "a demonstration",
                            RECORD,
                        )
                    })?;
                    members.push(record.index);
                }
            }
        }
        splits.values_mut().for_each(|members| members.sort_unstable());
        Ok(splits)
    }

    /// Reads demonstration `index` as an episode whose row `i` is the observation before action `i`.
    ///
    /// # Errors
    /// [`Hdf5Error`] if there is no such demonstration, or it is incomplete, empty, not finite or of other widths than the
    /// others.
    pub fn episode(&self, index: usize) -> Result<Episode, Hdf5Error> {
        let record = self.record(index)?;
        let container = Container::open(&record.file)?;
        self.read(&container, record)
    }

    /// The actions of demonstration `index` as they were recorded, `[steps, action_dim]` and the width.
    ///
    /// # Errors
    /// As [`Hdf5Dataset::episode`], as far as it concerns the actions.
    pub fn actions(&self, index: usize) -> Result<(Vec<f32>, usize), Hdf5Error> {
        let record = self.record(index)?;
        let container = Container::open(&record.file)?;
        let array = actions_of(&container, self.profile, record)?;
        let width = self.checked_width(&container, &array)?;
        Ok((container.floats(&array)?, width))
    }

    pub(super) fn record(&self, index: usize) -> Result<&DemoRecord, Hdf5Error> {
        self.demos.get(index).ok_or_else(|| Hdf5Error::NoSuchDemo {
            path: self.path.clone(),
            index,
            demos: self.demos.len(),
        })
    }

    fn checked_width(&self, container: &Container, actions: &Array) -> Result<usize, Hdf5Error> {
        let (got, expected) = (actions.width().unwrap_or(0), self.spec.action_dim);
        if got == expected {
            return Ok(got);
        }
        let what = format!("width of {}", actions.name);
        let expected = format!("{expected}, as in the others");
        Err(Hdf5Error::mismatch(container.path(), what, got, expected, RECORD))
    }

    pub(super) fn read(&self, container: &Container, record: &DemoRecord) -> Result<Episode, Hdf5Error> {
        let spec = demo_spec(container, self.profile, record)?;
        if spec != self.spec {
            let what = format!("widths, cameras or rate of {}", record.group());
            let expected = format!("{:?}, as in the others", self.spec);
            return Err(Hdf5Error::mismatch(container.path(), what, format!("{spec:?}"), expected, RECORD));
        }
        let actions = actions_of(container, self.profile, record)?;
        let lag = self.profile.action_lag();
        let recorded = actions.rows();
        if recorded <= lag {
            let what = format!("number of rows of {}", actions.name);
            let expected = format!("at least {}", lag + 1);
            return Err(Hdf5Error::mismatch(container.path(), what, recorded, expected, RECORD));
        }
        let steps = recorded - lag;
        let action_dim = self.checked_width(container, &actions)?;
        let mut values = container.floats(&actions)?;
        // Observation i pairs with action i + lag.
        values.drain(..lag * action_dim);

        let mut columns = Vec::new();
        for (key, width) in self.profile.proprio_keys() {
            let array = observation(container, record, key, recorded)?;
            let mut column = container.floats(&array)?;
            column.truncate(steps * width);
            columns.push((column, *width));
        }
        let mut proprio = Vec::with_capacity(steps * spec.proprio_dim);
        for step in 0..steps {
            for (column, width) in &columns {
                proprio.extend(column.iter().skip(step * width).take(*width));
            }
        }

        let mut cameras = Vec::with_capacity(spec.cameras.len());
        for (key, camera) in camera_keys(container, self.profile, record)?.into_iter().zip(&spec.cameras) {
            let array = observation(container, record, &key, recorded)?;
            let mut rgb = container.bytes(&array)?;
            rgb.truncate(steps * camera.height * camera.width * 3);
            if self.profile == Profile::Libero && images_are_upside_down(container)? {
                flip_rows(&mut rgb, camera.height, camera.width * 3);
            }
            cameras.push(Camera { name: camera.name.clone(), height: camera.height, width: camera.width, rgb });
        }
        let file_name = record.file.file_name().unwrap_or_default().to_string_lossy();
        let episode = Episode {
            instruction: instruction(container, self.profile, record)?,
            source: format!("{file_name}/demo_{}", record.demo),
            fps: spec.fps,
            cameras,
            proprio_dim: spec.proprio_dim,
            proprio,
            action_dim,
            actions: values,
        };
        match episode.validate() {
            Ok(()) => Ok(episode),
            Err(source) => Err(Hdf5Error::Episode { file: record.file.clone(), source }),
        }
    }
}

/// The file itself, or all HDF5 files below a folder by name.
fn files_below(path: &Path) -> Result<Vec<PathBuf>, Hdf5Error> {
    let mut files = Vec::new();
    let mut folders = vec![(path.to_owned(), 0)];
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Hdf5Error::io("listing", &folder))? {
            let entry = entry.map_err(Hdf5Error::io("listing", &folder))?.path();
            if entry.is_dir() && depth < MAX_DEPTH {
                folders.push((entry, depth + 1));
            } else if entry.extension().is_some_and(|ending| ending == "hdf5" || ending == "h5") {
                files.push(entry);
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Hdf5Error::NoFiles { path: path.to_owned() });
    }
    Ok(files)
}

/// The source of a file and the numbers of its demonstrations, ascending.
fn plan(container: &Container) -> Result<(Profile, Vec<u64>), Hdf5Error> {
    let missing = |object: &str, next_step| Hdf5Error::Missing {
        file: container.path().to_owned(),
        object: object.to_owned(),
        next_step,
    };
    let next = "robomimic, LIBERO and RoboCasa files have data/demo_0, data/demo_1 and so on";
    let data = container.group("data")?.ok_or_else(|| missing("the group \"data\"", next))?;
    let mut numbers: Vec<u64> = container
        .groups("data", &data)?
        .iter()
        // Others may lie beside them; only these are demonstrations.
        .filter_map(|name| name.strip_prefix("demo_")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let Some(first) = numbers.first() else { return Err(missing("a group \"data/demo_<number>\"", next)) };
    let name = format!("data/demo_{first}/obs");
    let observations = match container.group(&name)? {
        Some(group) => container.arrays(&name, &group)?,
        None => Vec::new(),
    };
    let has = |key: &str| observations.iter().any(|name| name == key);
    let says = |key: &str| Ok::<bool, Hdf5Error>(container.text("data", &data, key)?.is_some());
    let profile = if has("agentview_rgb") || says("bddl_file_name")? || says("problem_info")? {
        Profile::Libero
    } else if has("robot0_base_to_eef_pos") {
        Profile::RoboCasa
    } else if says("env_args")? {
        Profile::Robomimic
    } else {
        Profile::ActionsOnly
    };
    Ok((profile, numbers))
}

/// The form of the first demonstration whose form can be read.
fn first_spec(profile: Profile, demos: &[DemoRecord]) -> Result<DatasetSpec, Hdf5Error> {
    let mut first_error = None;
    for record in demos {
        let spec = Container::open(&record.file).and_then(|container| demo_spec(&container, profile, record));
        match spec {
            Ok(spec) => return Ok(spec),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    // There is a demonstration, as `plan` refuses files without.
    Err(first_error.unwrap_or_else(|| Hdf5Error::NoFiles { path: PathBuf::new() }))
}

/// Widths, cameras and rate of a demonstration, from the sizes of its arrays.
fn demo_spec(container: &Container, profile: Profile, record: &DemoRecord) -> Result<DatasetSpec, Hdf5Error> {
    let actions = actions_of(container, profile, record)?;
    let refuse = |what: String, got: String, expected: String| {
        Hdf5Error::mismatch(container.path(), what, got, expected, RECORD)
    };
    let mut cameras = Vec::new();
    for key in camera_keys(container, profile, record)? {
        let array = observation(container, record, &key, actions.rows())?;
        let sides = 1..=MAX_IMAGE_SIDE;
        match array.shape[..] {
            [_, height, width, 3] if sides.contains(&height) && sides.contains(&width) => {
                let name = profile.camera(&key).unwrap_or(&key).to_owned();
                cameras.push(CameraSpec { name, height, width });
            }
            _ => {
                let expected = format!("[rows, height, width, 3] with sides of 1 to {MAX_IMAGE_SIDE}");
                return Err(refuse(format!("shape of {}", array.name), format!("{:?}", array.shape), expected));
            }
        }
    }
    for (key, width) in profile.proprio_keys() {
        let array = observation(container, record, key, actions.rows())?;
        if array.width() != Some(*width) {
            let got = format!("{:?}", array.shape);
            return Err(refuse(format!("shape of {}", array.name), got, format!("[rows, {width}]")));
        }
    }
    Ok(DatasetSpec {
        fps: rate(container)?,
        cameras,
        proprio_dim: profile.proprio_dim(),
        action_dim: actions.width().unwrap_or(0),
        robot_type: None,
    })
}

/// The actions of a demonstration; their rows must be as many as it claims.
fn actions_of(container: &Container, profile: Profile, record: &DemoRecord) -> Result<Array, Hdf5Error> {
    let name = record.group();
    let array = container.array(&format!("{name}/actions"))?.ok_or_else(|| Hdf5Error::Missing {
        file: container.path().to_owned(),
        object: format!("{name}/actions"),
        next_step: RECORD,
    })?;
    let expected = match (profile.action_dim(), array.width()) {
        (Some(expected), got) if got != Some(expected) => Some(format!("[rows, {expected}] ({profile})")),
        (None, Some(width)) if (1..=MAX_WIDTH).contains(&width) => None,
        (None, _) => Some(format!("[rows, 1 to {MAX_WIDTH}]")),
        _ => None,
    };
    if let Some(expected) = expected {
        let got = format!("{:?}", array.shape);
        return Err(Hdf5Error::mismatch(container.path(), format!("shape of {}", array.name), got, expected, RECORD));
    }
    if let Some(group) = container.group(&name)?
        && let Some(claimed) = container.count(&name, &group, "num_samples")?
        && claimed != array.rows() as u64
    {
        let what = format!("number of rows of {}", array.name);
        let expected = format!("{claimed}, as num_samples says");
        return Err(Hdf5Error::mismatch(container.path(), what, array.rows(), expected, RECORD));
    }
    Ok(array)
}

/// An observation of a demonstration, with as many rows as there are actions.
fn observation(container: &Container, record: &DemoRecord, key: &str, rows: usize) -> Result<Array, Hdf5Error> {
    let name = format!("{}/obs/{key}", record.group());
    let array = container.array(&name)?.ok_or_else(|| Hdf5Error::Missing {
        file: container.path().to_owned(),
        object: name.clone(),
        next_step: "record the observations (robomimic's dataset_states_to_obs.py writes them)",
    })?;
    if array.rows() == rows {
        return Ok(array);
    }
    let expected = format!("{rows}, as there are actions");
    Err(Hdf5Error::mismatch(container.path(), format!("number of rows of {name}"), array.rows(), expected, RECORD))
}

/// The keys below `obs` that hold images, by name.
fn camera_keys(container: &Container, profile: Profile, record: &DemoRecord) -> Result<Vec<String>, Hdf5Error> {
    let name = format!("{}/obs", record.group());
    let Some(group) = container.group(&name)? else { return Ok(Vec::new()) };
    let mut keys = container.arrays(&name, &group)?;
    keys.retain(|key| profile.camera(key).is_some_and(|camera| !camera.is_empty()));
    keys.sort();
    Ok(keys)
}

/// JSON in an attribute of `data`.
fn data_json(container: &Container, data: &Hdf5Group, key: &str) -> Result<Option<Value>, Hdf5Error> {
    let Some(text) = container.text("data", data, key)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let what = format!("attribute {key} of data");
            Err(Hdf5Error::mismatch(container.path(), what, error, "JSON", "restore the file from its source"))
        }
    }
}

/// Steps per second: `env_kwargs.control_freq` of robosuite's `env_args`.
fn rate(container: &Container) -> Result<u32, Hdf5Error> {
    let Some(data) = container.group("data")? else { return Ok(ROBOSUITE_HZ) };
    let Some(arguments) = data_json(container, &data, "env_args")? else { return Ok(ROBOSUITE_HZ) };
    let Some(stated) = arguments.pointer("/env_kwargs/control_freq") else { return Ok(ROBOSUITE_HZ) };
    let whole = stated.as_f64().filter(|rate| (1.0..=10_000.0).contains(rate) && rate.fract() == 0.0);
    whole.map(|rate| rate as u32).ok_or_else(|| {
        let expected = "a whole number of steps per second, 1 to 10000";
        Hdf5Error::mismatch(container.path(), "control_freq of env_args", stated, expected, "mend the attribute")
    })
}

/// Whether the bottom row comes first. LIBERO writes OpenGL's order unless robosuite was told otherwise.
fn images_are_upside_down(container: &Container) -> Result<bool, Hdf5Error> {
    let Some(data) = container.group("data")? else { return Ok(true) };
    Ok(container.text("data", &data, "macros_image_convention")?.is_none_or(|order| order != "opencv"))
}

/// Turns each image of `[n, height, row_bytes]` upside down.
fn flip_rows(rgb: &mut [u8], height: usize, row_bytes: usize) {
    for image in rgb.chunks_exact_mut((height * row_bytes).max(1)) {
        let (top, bottom) = image.split_at_mut(height / 2 * row_bytes);
        let rows = top.chunks_exact_mut(row_bytes).zip(bottom.rchunks_exact_mut(row_bytes));
        rows.for_each(|(one, other)| one.swap_with_slice(other));
    }
}

/// What the demonstration was asked to do.
fn instruction(container: &Container, profile: Profile, record: &DemoRecord) -> Result<String, Hdf5Error> {
    let missing = |object: String, next_step| Hdf5Error::Missing { file: record.file.clone(), object, next_step };
    let stem = record.file.file_stem().unwrap_or_default().to_string_lossy();
    let data = container.group("data")?;
    let text = match profile {
        Profile::Libero | Profile::ActionsOnly => libero_instruction(&stem),
        Profile::Robomimic => {
            let arguments = data.map(|data| data_json(container, &data, "env_args")).transpose()?.flatten();
            let of = |key: &str| Some(arguments.as_ref()?.get(key)?.as_str()?.to_owned());
            of("env_lang").or_else(|| of("env_name"))
        }
        Profile::RoboCasa => {
            let name = record.group();
            let group = container.group(&name)?;
            let text = group.map(|group| container.text(&name, &group, "ep_meta")).transpose()?.flatten();
            let meta: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
            meta.and_then(|meta| Some(meta.get("lang")?.as_str()?.to_owned()))
        }
    };
    text.filter(|text| !text.trim().is_empty()).ok_or_else(|| match profile {
        Profile::Libero | Profile::ActionsOnly => {
            missing("the instruction in the file's name".into(), "name the file <task>_demo.hdf5")
        }
        Profile::Robomimic => missing("env_name in attribute env_args of data".into(), RECORD),
        Profile::RoboCasa => missing(format!("lang in attribute ep_meta of {}", record.group()), RECORD),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipping_reverses_rows_and_nothing_else() {
        let mut rgb: Vec<u8> = (0..2 * 3 * 2).collect();
        flip_rows(&mut rgb, 3, 2);
        assert_eq!(rgb, [4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7]);
        let whole = rgb.clone();
        flip_rows(&mut rgb, 3, 2);
        flip_rows(&mut rgb, 3, 2);
        assert_eq!(rgb, whole);
    }
}
