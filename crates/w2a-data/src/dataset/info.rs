//! `meta/info.json`: the version, the features and the path templates of a dataset.

use std::path::{Component, Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::error::DatasetError;
use crate::video::Encoding;

/// The layouts of LeRobot datasets that can be written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One parquet file per episode, metadata in JSON lines; read by LeRobot before 0.4, GR00T and openpi.
    V21,
    /// Many episodes per parquet file, metadata in parquet; read by LeRobot from 0.4 on.
    V30,
}

impl Version {
    /// The value of `codebase_version`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V21 => "v2.1",
            Self::V30 => "v3.0",
        }
    }

    /// The version of that name, if it is one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::V21, Self::V30].into_iter().find(|version| version.name() == name)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

pub(super) const INFO: &str = "meta/info.json";
pub(super) const STATE: &str = "observation.state";
pub(super) const ACTION: &str = "action";
pub(super) const CAMERA_PREFIX: &str = "observation.images.";

/// Largest height or width of an image: one decoded image stays below 200 MiB whatever a file claims.
pub(super) const MAX_IMAGE_SIDE: usize = 8192;
/// Largest width of a numeric feature.
pub(super) const MAX_WIDTH: usize = 4096;

/// One entry of `features`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Feature {
    pub dtype: String,
    pub shape: Vec<u64>,
    #[serde(default)]
    pub names: Value,
    /// Of a video: codec, size and rate, and whether it holds depths.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub info: Value,
}

impl Feature {
    fn holds_depths(&self) -> bool {
        ["is_depth_map", "video.is_depth_map"].iter().any(|key| self.info.get(key) == Some(&true.into()))
    }

    /// Width of a numeric feature of one axis.
    pub fn width(&self) -> Option<usize> {
        match self.shape[..] {
            [width] => usize::try_from(width).ok().filter(|width| (1..=MAX_WIDTH).contains(width)),
            _ => None,
        }
    }
}

/// `features` in the order of the file, which is the order of the cameras.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Features(pub Vec<(String, Feature)>);

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, feature) in &self.0 {
            map.serialize_entry(key, feature)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Features;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a map of features")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Features, A::Error> {
                let mut features: Vec<(String, Feature)> = Vec::new();
                while let Some((key, feature)) = map.next_entry::<String, Feature>()? {
                    if features.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom(format!("feature {key:?} is given twice")));
                    }
                    features.push((key, feature));
                }
                Ok(Features(features))
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

/// The parts of `meta/info.json` that reading needs; further keys are allowed, as LeRobot adds some over time.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Info {
    pub codebase_version: String,
    /// LeRobot's own datasets hold `10` or `10.0`.
    pub fps: f64,
    pub total_episodes: u64,
    pub total_frames: u64,
    #[serde(default)]
    pub robot_type: Option<String>,
    #[serde(default)]
    pub chunks_size: Option<u64>,
    pub data_path: String,
    #[serde(default)]
    pub video_path: Option<String>,
    pub features: Features,
}

/// What the episodes of a dataset look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetSpec {
    /// Control steps per second.
    pub fps: u32,
    /// Name (without `observation.images.`), height and width of every camera, in order.
    pub cameras: Vec<CameraSpec>,
    /// Width of the proprioception; 0 leaves `observation.state` out.
    pub proprio_dim: usize,
    /// Width of the actions; 0 leaves `action` out (action-free video).
    pub action_dim: usize,
    /// The robot's name, if known.
    pub robot_type: Option<String>,
}

/// One camera of a [`DatasetSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraSpec {
    /// Name, as in [`crate::Camera`].
    pub name: String,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

impl DatasetSpec {
    /// The specification that `episode` is an example of.
    pub fn of(episode: &crate::Episode) -> Self {
        let camera = |camera: &crate::Camera| CameraSpec {
            name: camera.name.clone(),
            height: camera.height,
            width: camera.width,
        };
        Self {
            fps: episode.fps,
            cameras: episode.cameras.iter().map(camera).collect(),
            proprio_dim: episode.proprio_dim,
            action_dim: episode.action_dim,
            robot_type: None,
        }
    }

    /// Checks that a dataset of this form can be written.
    pub(super) fn validate(&self) -> Result<(), DatasetError> {
        let refuse = |what: String| Err(DatasetError::Specification { what });
        if self.fps == 0 {
            return refuse("fps is 0; give the number of control steps per second".into());
        }
        if self.cameras.is_empty() && self.proprio_dim == 0 && self.action_dim == 0 {
            return refuse("there is no camera, no proprioception and no action; give at least one".into());
        }
        for (index, camera) in self.cameras.iter().enumerate() {
            if camera.name.is_empty() || camera.name.contains(['/', '\\', '\0']) {
                return refuse(format!("camera name {:?} is empty or holds a slash; rename it", camera.name));
            }
            if self.cameras[..index].iter().any(|other| other.name == camera.name) {
                return refuse(format!("two cameras are called {:?}; rename one", camera.name));
            }
            if ![camera.height, camera.width].iter().all(|side| (1..=MAX_IMAGE_SIDE).contains(side)) {
                let size = format!("{}x{}", camera.height, camera.width);
                return refuse(format!("camera {:?} is {size}, sides are 1 to {MAX_IMAGE_SIDE}", camera.name));
            }
        }
        if self.proprio_dim.max(self.action_dim) > MAX_WIDTH {
            return refuse(format!("proprioception or actions are wider than {MAX_WIDTH}"));
        }
        Ok(())
    }

    /// The features of such a dataset, in LeRobot's form; the cameras are videos of `video` if it is given.
    pub(super) fn features(&self, video: Option<Encoding>) -> Features {
        let feature = |dtype: &str, shape, names| Feature { dtype: dtype.into(), shape, names, info: Value::Null };
        let mut features = Vec::new();
        for camera in &self.cameras {
            let shape = vec![camera.height as u64, camera.width as u64, 3];
            let names = serde_json::json!(["height", "width", "channels"]);
            let kind = if video.is_some() { "video" } else { "image" };
            let mut image = feature(kind, shape, names);
            if let Some(video) = video {
                image.info = serde_json::json!({
                    "video.height": camera.height, "video.width": camera.width, "video.codec": video.codec().name(),
                    "video.pix_fmt": "yuv420p", "video.is_depth_map": false, "video.fps": self.fps,
                    "video.channels": 3, "has_audio": false,
                });
            }
            features.push((format!("{CAMERA_PREFIX}{}", camera.name), image));
        }
        for (key, width) in [(STATE, self.proprio_dim), (ACTION, self.action_dim)] {
            if width > 0 {
                let names: Vec<String> = (0..width).map(|dimension| format!("{dimension}")).collect();
                features.push((key.into(), feature("float32", vec![width as u64], serde_json::json!(names))));
            }
        }
        features.push(("timestamp".into(), feature("float32", vec![1], Value::Null)));
        for key in ["frame_index", "episode_index", "index", "task_index"] {
            features.push((key.into(), feature("int64", vec![1], Value::Null)));
        }
        Features(features)
    }
}

impl Layout {
    /// The cameras whose images are in video files.
    pub fn video_cameras(&self) -> impl Iterator<Item = &CameraSpec> {
        self.spec.cameras.iter().zip(&self.cameras).filter(|(_, source)| source.is_video).map(|(camera, _)| camera)
    }
}

/// Where the images of a camera are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CameraSource {
    /// The feature's name, which is the column's and part of the path of a video.
    pub key: String,
    /// In video files, not in the rows.
    pub is_video: bool,
}

/// What reading takes from the features: the specification, the cameras' columns and what is left aside.
pub(super) struct Layout {
    pub version: Version,
    pub spec: DatasetSpec,
    /// Where the images of every camera are, in the order of `spec.cameras`.
    pub cameras: Vec<CameraSource>,
    /// Column of the proprioception.
    pub state_key: &'static str,
    /// Column of the actions.
    pub action_key: &'static str,
    /// Features that an [`crate::Episode`] has no place for.
    pub ignored: Vec<String>,
}

impl Info {
    /// Reads and checks `meta/info.json`.
    pub fn parse(file: &Path, json: &[u8]) -> Result<(Self, Layout), DatasetError> {
        let info: Self = serde_json::from_slice(json).map_err(|source| DatasetError::Json {
            file: file.to_owned(),
            line: source.line(),
            source,
        })?;
        let version = Version::from_name(&info.codebase_version)
            .ok_or_else(|| DatasetError::Version { file: file.to_owned(), got: info.codebase_version.clone() })?;
        let wrong = |what: &str, got: String, expected: &str| {
            DatasetError::mismatch(file, what, got, expected, "mend the metadata or convert the dataset with LeRobot")
        };
        if !(info.fps >= 1.0 && info.fps <= f64::from(u32::MAX) && info.fps.fract() == 0.0) {
            return Err(wrong("fps", info.fps.to_string(), "a whole number of steps per second, at least 1"));
        }
        let has = |key: &str| info.features.0.iter().any(|(other, _)| other == key);
        // The short names are openpi's.
        let state_key = if !has(STATE) && has("state") { "state" } else { STATE };
        let action_key = if !has(ACTION) && has("actions") { "actions" } else { ACTION };
        let mut layout = Layout {
            version,
            spec: DatasetSpec {
                fps: info.fps as u32,
                cameras: Vec::new(),
                proprio_dim: 0,
                action_dim: 0,
                robot_type: info.robot_type.clone(),
            },
            cameras: Vec::new(),
            state_key,
            action_key,
            ignored: Vec::new(),
        };
        for (key, feature) in &info.features.0 {
            let shape = format!("shape of feature {key:?}");
            match feature.dtype.as_str() {
                "video" | "image" if feature.holds_depths() => layout.ignored.push(key.clone()),
                "video" | "image" => {
                    let side =
                        |value: u64| usize::try_from(value).ok().filter(|side| (1..=MAX_IMAGE_SIDE).contains(side));
                    // Some converters put the channels first, as PyTorch does.
                    let (&[height, width, 3] | &[3, height, width]) = &feature.shape[..] else {
                        return Err(wrong(&shape, format!("{:?}", feature.shape), "[height, width, 3]"));
                    };
                    let (Some(height), Some(width)) = (side(height), side(width)) else {
                        let expected = format!("sides of 1 to {MAX_IMAGE_SIDE}");
                        return Err(wrong(&shape, format!("{:?}", feature.shape), &expected));
                    };
                    let name = key.strip_prefix(CAMERA_PREFIX).unwrap_or(key).to_owned();
                    if layout.spec.cameras.iter().any(|camera| camera.name == name) {
                        return Err(wrong("cameras", format!("two called {name:?}"), "different names"));
                    }
                    layout.spec.cameras.push(CameraSpec { name, height, width });
                    let is_video = feature.dtype == "video";
                    if is_video && info.video_path.is_none() {
                        return Err(wrong("video_path", "missing".into(), "a template, as there are video features"));
                    }
                    layout.cameras.push(CameraSource { key: key.clone(), is_video });
                }
                dtype if key == state_key || key == action_key => {
                    let Some(width) = feature.width().filter(|_| matches!(dtype, "float32" | "float64")) else {
                        let expected = format!("floats of shape [1] to [{MAX_WIDTH}]");
                        return Err(wrong(&shape, format!("{dtype} {:?}", feature.shape), &expected));
                    };
                    *(if key == state_key { &mut layout.spec.proprio_dim } else { &mut layout.spec.action_dim }) =
                        width;
                }
                _ if matches!(&key[..], "timestamp" | "frame_index" | "episode_index" | "index" | "task_index") => {}
                _ => layout.ignored.push(key.clone()),
            }
        }
        if layout.spec.cameras.is_empty() && layout.spec.proprio_dim == 0 && layout.spec.action_dim == 0 {
            return Err(wrong("features", "nothing readable".into(), "a camera, observation.state or action"));
        }
        Ok((info, layout))
    }
}

/// Fills the placeholders of a path template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.
///
/// `video_key` is what `{video_key}` stands for. The result is relative and stays below the dataset's folder by
/// construction: every component is a plain name.
pub(super) fn fill_template(
    file: &Path,
    template: &str,
    values: &[(&str, u64)],
    video_key: Option<&str>,
) -> Result<PathBuf, DatasetError> {
    let refuse =
        |reason: String| Err(DatasetError::Template { file: file.to_owned(), template: template.to_owned(), reason });
    let (mut filled, mut rest) = (String::new(), template);
    while let Some(open) = rest.find(['{', '}']) {
        filled.push_str(&rest[..open]);
        let Some((inside, after)) = rest[open..].strip_prefix('{').and_then(|tail| tail.split_once('}')) else {
            return refuse("has unbalanced braces".into());
        };
        if let ("video_key", Some(key)) = (inside, video_key) {
            filled.push_str(key);
            rest = after;
            continue;
        }
        let (name, format) = inside.split_once(':').unwrap_or((inside, "d"));
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = values.iter().map(|(known, _)| *known).collect();
            return refuse(format!("has an unknown placeholder {name:?} (known are {})", known.join(", ")));
        };
        // Python's `d`, `03d`, `6d`: the widths that occur are tiny, and a huge one must not allocate.
        let width = match format.strip_suffix('d') {
            Some("") => Some(0),
            Some(digits) if digits.len() <= 2 && digits.starts_with('0') => digits.parse::<usize>().ok(),
            _ => None,
        };
        let Some(width) = width else {
            return refuse(format!("has the number format {format:?}, expected one such as 03d"));
        };
        filled.push_str(&format!("{value:0width$}"));
        rest = after;
    }
    filled.push_str(rest);
    let path = PathBuf::from(&filled);
    // Backslashes and drive letters are names here and separators elsewhere: a dataset is portable or refused.
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if filled.is_empty() || !plain || filled.contains(['\\', '\0', ':']) {
        return refuse(format!("gives {filled:?}, which is not a path inside the dataset"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(template: &str) -> Result<PathBuf, DatasetError> {
        let values = [("chunk_index", 2), ("file_index", 1234)];
        fill_template(Path::new("info.json"), template, &values, Some("observation.images.top"))
    }

    #[test]
    fn templates_fill_like_pythons() {
        let path = fill("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet").unwrap();
        assert_eq!(path, Path::new("data/chunk-002/file-1234.parquet"));
        assert_eq!(fill("{file_index}/{chunk_index:d}").unwrap(), Path::new("1234/2"));
        assert_eq!(fill("videos/{video_key}/1.mp4").unwrap(), Path::new("videos/observation.images.top/1.mp4"));
    }

    #[test]
    fn templates_that_leave_the_dataset_are_refused() {
        for hostile in ["../{file_index}", "/etc/passwd", "data/../../x", "", "C:/x", "a\\..\\b", "a\0b", "./../x"] {
            let error = fill(hostile).unwrap_err().to_string();
            assert!(error.contains("not a path inside the dataset"), "{hostile:?}: {error}");
        }
    }

    #[test]
    fn a_video_key_that_leaves_the_dataset_is_refused() {
        for hostile in ["../..", "/etc", "a/../../../b", "C:", "..\\x"] {
            let filled = fill_template(Path::new("info.json"), "{video_key}/1.mp4", &[], Some(hostile));
            assert!(matches!(filled, Err(DatasetError::Template { .. })), "{hostile:?}");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        for hostile in ["{", "}", "{chunk_index", "{other:03d}", "{chunk_index:99999999d}", "{chunk_index:x}", "{{}}"] {
            assert!(matches!(fill(hostile), Err(DatasetError::Template { .. })), "{hostile:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_info_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Info::parse(Path::new("info.json"), &bytes);
        }

        #[test]
        fn damaged_info_never_panics(position in 0_usize..800, byte: u8) {
            let features = DatasetSpec {
                fps: 20,
                cameras: vec![CameraSpec { name: "agent".into(), height: 64, width: 64 }],
                proprio_dim: 9,
                action_dim: 7,
                robot_type: None,
            }
            .features(None);
            let mut json = serde_json::to_vec(&serde_json::json!({
                "codebase_version": "v3.0", "fps": 20, "total_episodes": 1, "total_frames": 5,
                "data_path": "data/chunk-{chunk_index:03d}.parquet", "features": serde_json::to_value(&features).unwrap(),
            })).unwrap();
            let position = position % json.len();
            json[position] = byte;
            let _ = Info::parse(Path::new("info.json"), &json);
        }

        #[test]
        fn arbitrary_templates_stay_inside_or_fail(template in ".{0,40}") {
            if let Ok(path) = fill(&template) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
            }
        }
    }
}
