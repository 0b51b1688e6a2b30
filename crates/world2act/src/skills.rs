//! `world2act skills`: settings put together, then one library call.

use serde::{Deserialize, Serialize};
use toml::Value;
use w2a_skills::{Config, Request, SkillsError};

use crate::args::SkillsRequest;
use crate::failure::Failure;
use crate::settings::{Layer, merge};

/// The root of the settings: all lie below `[skills]`, as the flags say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    skills: Config,
}

/// Does what was asked; the result is what to print.
///
/// # Errors
/// Settings that cannot be put together, and whatever ends the cut.
pub fn run(asked: &SkillsRequest) -> Result<String, Failure> {
    let request = Request {
        dataset: asked.dataset.clone(),
        out: asked.out.clone(),
        config: config(asked)?,
        skip_bad: asked.skip_bad,
        write_ranges: asked.write_ranges,
    };
    if asked.dry_run {
        return Ok(format!("{}\n", w2a_skills::dry_run(&request)?));
    }
    let outcome = w2a_skills::run(&request)?;
    let (dataset, page) = (outcome.dataset.display(), outcome.page.display());
    Ok(format!("{}\n\nSkills: {dataset}\nPage: {page}\n", outcome.summary.text()))
}

/// The checked settings: the embodiment's, the file's, the flags'.
///
/// # Errors
/// As [`run`], before anything is read but the file.
pub fn config(asked: &SkillsRequest) -> Result<Config, Failure> {
    let mut layers = Vec::new();
    if let Some(path) = &asked.config {
        layers.push(Layer::file(path)?);
    }
    layers.extend(asked.overrides.iter().map(|flag| Layer::flag(&flag.key, flag.value.clone(), &flag.flag)));
    let named = layers.iter().rev().find_map(|layer| layer.values().get("skills")?.get("embodiment"));
    let preset = named.and_then(Value::as_str).and_then(Config::preset);
    let Some(skills) = preset else {
        let got = named.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let expected = format!("one of {}", Config::EMBODIMENTS.join(", "));
        return Err(SkillsError::Config { key: "skills.embodiment".into(), expected, got }.into());
    };
    layers.insert(0, Layer::defaults(&Root { skills })?);
    let Root { skills } = merge(&layers)?;
    skills.validate()?;
    Ok(skills)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{Action, parse};

    fn settings(words: &[&str]) -> Result<Config, String> {
        let words = ["world2act", "skills", "data", "--out", "skills"].iter().chain(words).map(OsString::from);
        match parse(words).unwrap() {
            Action::Skills(asked) => config(&asked).map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_embodiment_has_to_be_named_and_is_where_the_other_values_start() {
        let error = settings(&["--skills.schema=a.toml"]).unwrap_err();
        assert!(error.contains("skills.embodiment") && error.contains("libero_panda"), "{error}");
        assert!(settings(&["--skills.embodiment=panda"]).unwrap_err().contains("\"panda\""));
        let config =
            settings(&["--skills.embodiment=libero_panda", "--skills.schema=a", "--skills.gripper.contact_m=0.06"]);
        let preset = Config::preset("libero_panda").unwrap();
        let gripper = w2a_skills::GripperConfig { contact_m: 0.06, ..preset.gripper.clone() };
        assert_eq!(config.unwrap(), Config { schema: "a".into(), gripper, ..preset });
    }

    #[test]
    fn a_file_is_overridden_by_flags_and_misspelt_settings_get_a_suggestion() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skills.toml");
        fs_err::write(&file, "[skills]\nembodiment = \"bridge_widowx\"\nschema = \"a\"\nsegment.min_open_s = 0.5\n")
            .unwrap();
        let file = format!("--config={}", file.display());
        let config = settings(&[&file, "--skills.segment.min_open_s=0.7"]).unwrap();
        assert_eq!((config.segment.min_open_s, config.gripper.entries), (0.7, vec![7]));
        let error = settings(&[&file, "--skills.gripper.contactm=0.1"]).unwrap_err();
        assert!(error.contains("skills.gripper.contact_m"), "{error}");
    }
}
