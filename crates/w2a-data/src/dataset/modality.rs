//! `meta/modality.json` of the GR00T flavour: which slices of the state and the action mean what.

use std::path::Path;

use serde::Deserialize;

use super::error::DatasetError;
use super::info::{ACTION, CAMERA_PREFIX, Features, STATE};
use super::plan::read_small;

pub(super) const MODALITY: &str = "meta/modality.json";
const MEND: &str = "mend meta/modality.json, or take the one that belongs to this dataset";

/// A named part of a feature: columns `start..end` of `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModalitySlice {
    /// GR00T's name, such as `gripper`.
    pub name: String,
    /// The feature, such as `observation.state`.
    pub key: String,
    /// First column.
    pub start: usize,
    /// Column after the last one.
    pub end: usize,
}

/// GR00T's name of a whole feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModalityName {
    /// GR00T's name, such as `ego_view`.
    pub name: String,
    /// The feature, such as `observation.images.ego_view`.
    pub key: String,
}

/// What `meta/modality.json` says, checked against the features; entries are sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modality {
    /// Parts of the proprioception.
    pub state: Vec<ModalitySlice>,
    /// Parts of the action.
    pub action: Vec<ModalitySlice>,
    /// Cameras.
    pub video: Vec<ModalityName>,
    /// Annotations, such as `human.action.task_description`, and the columns that hold their task numbers.
    pub annotation: Vec<ModalityName>,
}

/// The file's own form; further keys such as `rotation_type` are allowed.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    state: Map<Slice>,
    #[serde(default)]
    action: Map<Slice>,
    #[serde(default)]
    video: Map<Name>,
    #[serde(default)]
    annotation: Map<Name>,
}

type Map<T> = std::collections::BTreeMap<String, T>;

#[derive(Deserialize)]
struct Slice {
    start: u64,
    end: u64,
    original_key: Option<String>,
}

#[derive(Deserialize)]
struct Name {
    original_key: Option<String>,
}

impl Modality {
    /// Reads and checks the file below `root`; `None` if there is none.
    pub(super) fn read(root: &Path, features: &Features) -> Result<Option<Self>, DatasetError> {
        let file = root.join(MODALITY);
        if !file.is_file() {
            return Ok(None);
        }
        Self::parse(&file, &read_small(&file)?, features).map(Some)
    }

    fn parse(path: &Path, json: &[u8], features: &Features) -> Result<Self, DatasetError> {
        let file: File = serde_json::from_slice(json).map_err(|source| DatasetError::Json {
            file: path.to_owned(),
            line: source.line(),
            source,
        })?;
        let find = |what: &str, key: &str| {
            let found = features.0.iter().find(|(other, _)| other == key).map(|(_, feature)| feature);
            found.ok_or_else(|| {
                let expected = "a feature of meta/info.json";
                DatasetError::mismatch(path, format!("original_key of {what}"), format!("{key:?}"), expected, MEND)
            })
        };
        let slices = |kind: &str, default: &str, slices: Map<Slice>| {
            let check = |(name, slice): (String, Slice)| {
                let what = format!("{kind}.{name}");
                let key = slice.original_key.unwrap_or_else(|| default.to_owned());
                let width = find(&what, &key)?.width().unwrap_or(0);
                let bounds = usize::try_from(slice.start).ok().zip(usize::try_from(slice.end).ok());
                let Some((start, end)) = bounds.filter(|&(start, end)| start < end && end <= width) else {
                    let got = format!("{}..{}", slice.start, slice.end);
                    let expected = format!("a part of the {width} columns of {key:?}");
                    return Err(DatasetError::mismatch(path, what, got, expected, MEND));
                };
                Ok(ModalitySlice { name, key, start, end })
            };
            slices.into_iter().map(check).collect::<Result<Vec<_>, _>>()
        };
        let names = |kind: &str, prefix: &str, names: Map<Name>| {
            let check = |(name, entry): (String, Name)| {
                let key = entry.original_key.unwrap_or_else(|| format!("{prefix}{name}"));
                let what = format!("{kind}.{name}");
                let feature = find(&what, &key)?;
                if kind == "video" && !matches!(&feature.dtype[..], "video" | "image") {
                    return Err(DatasetError::mismatch(path, what, &feature.dtype, "a camera", MEND));
                }
                Ok(ModalityName { name, key })
            };
            names.into_iter().map(check).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            state: slices("state", STATE, file.state)?,
            action: slices("action", ACTION, file.action)?,
            video: names("video", CAMERA_PREFIX, file.video)?,
            annotation: names("annotation", "annotation.", file.annotation)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::info::{CameraSpec, DatasetSpec};
    use super::*;

    fn parse(json: &str) -> Result<Modality, DatasetError> {
        let camera = CameraSpec { name: "image".into(), height: 8, width: 8 };
        let spec = DatasetSpec { fps: 20, cameras: vec![camera], proprio_dim: 8, action_dim: 7, robot_type: None };
        Modality::parse(Path::new(MODALITY), json.as_bytes(), &spec.features(None))
    }

    const LIBERO: &str = r#"{
        "state": {"x": {"start": 0, "end": 1}, "gripper": {"start": 6, "end": 8}},
        "action": {"gripper": {"start": 6, "end": 7, "rotation_type": null}},
        "video": {"image": {"original_key": "observation.images.image"}},
        "annotation": {"human.action.task_description": {"original_key": "task_index"}}
    }"#;

    #[test]
    fn slices_and_names_are_typed() {
        let modality = parse(LIBERO).unwrap();
        let gripper = ModalitySlice { name: "gripper".into(), key: STATE.into(), start: 6, end: 8 };
        assert_eq!(modality.state[0], gripper);
        assert_eq!(modality.action[0].key, ACTION);
        assert_eq!(modality.video[0].key, "observation.images.image");
        assert_eq!(modality.annotation[0].key, "task_index");
        assert_eq!(parse("{}").unwrap(), Modality::default());
    }

    #[test]
    fn what_does_not_fit_the_features_is_named() {
        for (from, to, expected) in [
            ("\"end\": 8", "\"end\": 9", "state.gripper is 6..9, expected a part of the 8 columns"),
            ("\"end\": 7", "\"end\": 6", "action.gripper is 6..6"),
            ("images.image", "images.wrist", "original_key of video.image is \"observation.images.wrist\""),
            ("observation.images.image", "action", "video.image is float32, expected a camera"),
            ("\"task_index\"", "\"other\"", "annotation.human.action.task_description"),
            ("\"start\": 0", "\"start\": -1", "line 2"),
        ] {
            let error = parse(&LIBERO.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("modality.json"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_json_never_panics(text in ".{0,80}", at in 0_usize..300, byte: char) {
            let _ = parse(&text);
            let mut damaged: Vec<char> = LIBERO.chars().collect();
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = parse(&damaged.into_iter().collect::<String>());
        }
    }
}
