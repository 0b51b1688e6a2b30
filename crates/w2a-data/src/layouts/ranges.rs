//! `video_metadata.json`: which steps of a demonstration are which skill.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::LayoutError;

/// Steps of one skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SkillRange {
    /// First step.
    pub start: u64,
    /// Last step, inclusive, at least `start`.
    pub end: u64,
}

type Skills = UniqueMap<SkillRange>;

/// `{task: {demo: {skill index: {start, end}}}}`; `end` is inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkillRanges {
    file: PathBuf,
    tasks: BTreeMap<String, UniqueMap<Skills>>,
}

impl SkillRanges {
    /// Reads a `video_metadata.json`.
    ///
    /// # Errors
    /// As [`SkillRanges::parse`], and if the file cannot be read.
    pub fn open(file: impl AsRef<Path>) -> Result<Self, LayoutError> {
        let file = file.as_ref();
        let json = std::fs::read(file).map_err(|source| LayoutError::Io {
            operation: "reading",
            path: file.to_owned(),
            source,
        })?;
        Self::parse(file, &json)
    }

    /// Reads the text of a `video_metadata.json`; `file` is for messages.
    ///
    /// # Errors
    /// [`LayoutError`] if it is not of that form, a key is given twice, a demonstration or skill is not numbered, or a
    /// skill ends before it starts.
    pub fn parse(file: &Path, json: &[u8]) -> Result<Self, LayoutError> {
        let tasks: UniqueMap<UniqueMap<Skills>> = serde_json::from_slice(json).map_err(|source| LayoutError::Json {
            file: file.to_owned(),
            line: source.line(),
            source,
        })?;
        let ranges = Self { file: file.to_owned(), tasks: tasks.0 };
        for (task, demos) in &ranges.tasks {
            for (demo, skills) in &demos.0 {
                let demo = number(file, demo)?;
                for (index, range) in &skills.0 {
                    let index = number(file, index)?;
                    if range.end < range.start {
                        return Err(ranges.wrong(task, demo, index, *range, "start <= end".into()));
                    }
                }
            }
        }
        Ok(ranges)
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Number of skills in all demonstrations.
    pub fn len(&self) -> usize {
        self.tasks.values().flat_map(|demos| demos.0.values()).map(|skills| skills.0.len()).sum()
    }

    /// Whether there is no skill.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The steps of a skill, if there is one of that number.
    pub fn get(&self, task: &str, demo: u64, index: u64) -> Option<SkillRange> {
        let skills = self.tasks.get(task)?.0.get(&demo.to_string())?;
        skills.0.get(&index.to_string()).copied()
    }

    /// The steps of `range` as a half-open range, checked against a demonstration of `steps` steps.
    ///
    /// # Errors
    /// [`LayoutError::Range`] if the skill reaches past the end.
    pub fn within(
        &self,
        (task, demo, index): (&str, u64, u64),
        range: SkillRange,
        steps: usize,
    ) -> Result<Range<usize>, LayoutError> {
        let end = usize::try_from(range.end).ok().filter(|&end| end < steps);
        match (usize::try_from(range.start), end) {
            (Ok(start), Some(end)) if start <= end => Ok(start..end + 1),
            _ => {
                let expected = format!("steps of a demonstration of {steps}");
                Err(self.wrong(task, demo, index, range, expected))
            }
        }
    }

    fn wrong(&self, task: &str, demo: u64, index: u64, range: SkillRange, expected: String) -> LayoutError {
        let SkillRange { start, end } = range;
        LayoutError::Range { file: self.file.clone(), task: task.to_owned(), demo, index, start, end, expected }
    }
}

/// A key that numbers something: the digits that the number is written with, so that `01` is not a second 1.
fn number(file: &Path, key: &str) -> Result<u64, LayoutError> {
    key.parse().ok().filter(|number: &u64| number.to_string() == key).ok_or_else(|| LayoutError::Json {
        file: file.to_owned(),
        line: 1,
        source: serde_json::Error::custom(format!("key {key:?} is no number")),
    })
}

/// A JSON object in which no key occurs twice; parsers usually let the last one win.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UniqueMap<V>(BTreeMap<String, V>);

impl<'de, V: DeserializeOwned> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique<V>(PhantomData<V>);
        impl<'de, V: DeserializeOwned> Visitor<'de> for Unique<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueMap<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("{key:?} is given twice")));
                    }
                    map.insert(key, value);
                }
                Ok(UniqueMap(map))
            }
        }
        deserializer.deserialize_map(Unique(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<SkillRanges, LayoutError> {
        SkillRanges::parse(Path::new("video_metadata.json"), json.as_bytes())
    }

    #[test]
    fn the_end_is_inclusive() {
        let ranges = parse(r#"{"Töpfe": {"7": {"0": {"start": 2, "end": 2}, "1": {"start": 3, "end": 9}}}}"#).unwrap();
        assert_eq!(ranges.len(), 2);
        let range = ranges.get("Töpfe", 7, 1).unwrap();
        assert_eq!(ranges.within(("Töpfe", 7, 1), range, 10).unwrap(), 3..10);
        assert_eq!(ranges.get("Töpfe", 7, 2), None);
        assert_eq!(ranges.get("other", 7, 1), None);
    }

    #[test]
    fn a_skill_that_ends_before_it_starts_is_refused() {
        let error = parse(r#"{"A": {"7": {"1": {"start": 5, "end": 4}}}}"#).unwrap_err().to_string();
        for part in ["video_metadata.json", "skill 1", "demonstration 7", "\"A\"", "steps 5 to 4", "start <= end"] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    #[test]
    fn a_skill_past_the_end_of_its_demonstration_is_refused() {
        let ranges =
            parse(r#"{"A": {"7": {"1": {"start": 5, "end": 10}, "2": {"start": 0, "end": 18446744073709551615}}}}"#);
        let ranges = ranges.unwrap();
        for index in [1, 2] {
            let range = ranges.get("A", 7, index).unwrap();
            let error = ranges.within(("A", 7, index), range, 10).unwrap_err().to_string();
            assert!(error.contains("a demonstration of 10"), "{error}");
        }
    }

    #[test]
    fn keys_given_twice_and_keys_that_are_no_numbers_are_refused() {
        for (json, part) in [
            (r#"{"A": {}, "A": {}}"#, "\"A\" is given twice"),
            (r#"{"A": {"1": {}, "1": {}}}"#, "\"1\" is given twice"),
            (r#"{"A": {"x": {}}}"#, "\"x\" is no number"),
            (r#"{"A": {"1": {"01": {"start": 0, "end": 1}}}}"#, "\"01\" is no number"),
            (r#"{"A": {"1": {"0": {"start": -1, "end": 1}}}}"#, "line 1"),
            (r#"{"A": {"1": {"0": {"start": 1}}}}"#, "missing field `end`"),
            ("[]", "an object"),
            ("", "line 1"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    proptest! {
        #[test]
        fn ranges_that_are_given_out_fit(start in 0_u64..40, length in 0_u64..40, steps in 0_usize..60) {
            let range = SkillRange { start, end: start + length };
            let ranges = parse("{}").unwrap();
            match ranges.within(("A", 0, 0), range, steps) {
                Ok(range) => prop_assert!(!range.is_empty() && range.end <= steps),
                Err(_) => prop_assert!(start + length >= steps as u64),
            }
        }

        #[test]
        fn damaged_metadata_never_panics(position in 0_usize..60, byte: u8) {
            let mut json = br#"{"Task": {"12": {"0": {"start": 3, "end": 40}}}}"#.to_vec();
            let position = position % json.len();
            json[position] = byte;
            let _ = SkillRanges::parse(Path::new("x"), &json);
        }
    }
}
