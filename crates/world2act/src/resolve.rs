//! Second stage of the command line: files are read, settings put together and checked, nothing is written.

use std::path::Path;

use w2a_pipeline::{Config, Request};

use crate::args::{LayerRequest, RunRequest};
use crate::failure::Failure;
use crate::settings::{Layer, differences, merge};

/// The checked configuration as TOML.
///
/// # Errors
/// Settings that cannot be put together or that do not fit each other.
pub fn printed_config(asked: &LayerRequest) -> Result<String, Failure> {
    let config = checked(&layers(asked)?)?;
    Ok(toml::to_string(&config).map_err(crate::settings::SettingsError::from)?)
}

/// The request to the library, and what the user should be told before it starts.
///
/// # Errors
/// As [`printed_config`], and a run to be continued whose configuration cannot be read.
pub fn request(asked: &RunRequest) -> Result<(Request, Vec<String>), Failure> {
    let saved = if asked.resume { w2a_pipeline::saved_config(&asked.out)? } else { None };
    let mut notes = Vec::new();
    let config = match saved {
        None => checked(&layers(&asked.layers)?)?,
        Some(text) => {
            let path = asked.out.join("config.toml");
            let saved = Layer::text(&path, text)?;
            notes.extend(ignored(&asked.layers, &saved, &path)?);
            let mut layers = vec![defaults(&asked.layers)?, saved];
            layers.extend(flags(&asked.layers));
            checked(&layers)?
        }
    };
    let request = Request { config, out: asked.out.clone(), resume: asked.resume, until: asked.until };
    Ok((request, notes))
}

fn defaults(asked: &LayerRequest) -> Result<Layer, Failure> {
    Ok(Layer::defaults(&Config::profile(asked.profile.0))?)
}

fn flags(asked: &LayerRequest) -> impl Iterator<Item = Layer> {
    asked.overrides.iter().map(|flag| Layer::flag(&flag.key, flag.value.clone(), &flag.flag))
}

/// Profile, file, flags.
fn layers(asked: &LayerRequest) -> Result<Vec<Layer>, Failure> {
    let mut layers = vec![defaults(asked)?];
    if let Some(path) = &asked.config {
        layers.push(Layer::file(path)?);
    }
    layers.extend(flags(asked));
    Ok(layers)
}

fn checked(layers: &[Layer]) -> Result<Config, Failure> {
    let config: Config = merge(layers)?;
    config.validate()?;
    Ok(config)
}

/// On `--resume` the run's own settings take the place of the profile and the file. Whoever named one of these on the
/// command line should hear of it, but only where it makes a difference.
fn ignored(asked: &LayerRequest, saved: &Layer, path: &Path) -> Result<Option<String>, Failure> {
    let (what, loses) = match (&asked.config, asked.profile) {
        (Some(file), _) => (format!("--config {}", file.display()), Layer::file(file)?),
        (None, (profile, true)) => (format!("--profile {profile}"), defaults(asked)?),
        (None, (_, false)) => return Ok(None),
    };
    let given = loses.values();
    let differing: Vec<String> = differences(given, saved.values())
        .into_iter()
        // A file speaks of some settings only.
        .filter(|key| differences(given, &toml::Table::new()).contains(key))
        .collect();
    let Some(first) = differing.first() else { return Ok(None) };
    let more = match differing.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Ok(Some(format!(
        "continuing with the settings in {}; {what} has other ones ({first}{more}), which are not used",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use toml::Value;
    use w2a_pipeline::{Profile, Stage};

    use super::*;
    use crate::args::Override;

    fn asked(out: &Path, resume: bool, profile: (Profile, bool), threads: Option<i64>) -> RunRequest {
        let flag = |value| Override {
            key: vec!["threads".into()],
            value: Value::Integer(value),
            flag: format!("--threads={value}"),
        };
        let layers = LayerRequest { profile, config: None, overrides: threads.map(flag).into_iter().collect() };
        RunRequest { until: Stage::Report, out: out.to_owned(), resume, layers }
    }

    /// The folder of a run that was started with the smoke profile and seed 9.
    fn run_of_seed_9() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::profile(Profile::Smoke);
        config.seed = 9;
        fs_err::write(folder.path().join("config.toml"), toml::to_string(&config).unwrap()).unwrap();
        folder
    }

    #[test]
    fn a_continued_run_keeps_its_settings_except_for_flags() {
        let folder = run_of_seed_9();
        let (request, notes) = request(&asked(folder.path(), true, (Profile::Quick, false), Some(1))).unwrap();
        let expected = Config { seed: 9, threads: 1, ..Config::profile(Profile::Smoke) };
        assert_eq!(toml::to_string(&request.config).unwrap(), toml::to_string(&expected).unwrap());
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn settings_that_a_continued_run_does_not_use_are_mentioned() {
        let folder = run_of_seed_9();
        let asked_for = |profile| request(&asked(folder.path(), true, (profile, true), None)).unwrap();
        let (request, notes) = asked_for(Profile::Full);
        assert_eq!(request.config.seed, 9);
        assert!(notes.len() == 1 && notes[0].contains("--profile full") && notes[0].contains(" more"), "{notes:?}");
        let (_, notes) = asked_for(Profile::Smoke);
        assert!(notes[0].contains("(seed)"), "{notes:?}");
    }

    #[test]
    fn without_resume_and_without_a_run_the_profile_counts() {
        let folder = run_of_seed_9();
        let seed = |out: PathBuf, resume| {
            let asked = asked(&out, resume, (Profile::Smoke, true), None);
            let (request, notes) = request(&asked).unwrap();
            assert!(notes.is_empty());
            request.config.seed
        };
        let default = Config::profile(Profile::Smoke).seed;
        assert_eq!(seed(folder.path().to_owned(), false), default);
        assert_eq!(seed(folder.path().join("absent"), true), default);
    }

    #[test]
    fn a_damaged_configuration_of_a_run_is_named() {
        let folder = run_of_seed_9();
        fs_err::write(folder.path().join("config.toml"), "seed = \n").unwrap();
        let error = request(&asked(folder.path(), true, (Profile::Smoke, true), None)).unwrap_err();
        assert!(error.to_string().contains("config.toml"), "{error}");
    }
}
