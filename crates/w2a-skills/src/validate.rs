//! Which settings can be, told before the disk or the network is touched.

use ureq::http::Uri;
use w2a_data::DatasetSpec;

use crate::config::{Config, LlmConfig, SignalChoice};
use crate::error::SkillsError;

/// Frames of a filmstrip at most, and filmstrips of a page: more cannot be looked at.
const MAX_SHOWN: usize = 10_000;

impl Config {
    /// Checks every setting on its own and against the others.
    ///
    /// # Errors
    /// [`SkillsError::Config`] naming the setting.
    pub fn validate(&self) -> Result<(), SkillsError> {
        if Self::preset(&self.embodiment).is_none() {
            let expected = format!("one of {}", Self::EMBODIMENTS.join(", "));
            return refuse("embodiment", expected, format!("{:?}", self.embodiment));
        }
        if self.schema.is_empty() && !self.llm.enabled {
            return refuse(
                "schema",
                "a file with the prompts of each instruction, unless skills.llm.enabled is true",
                "neither",
            );
        }
        let (gripper, motion) = (&self.gripper, &self.motion);
        if gripper.entries.len() != gripper.weights.len() {
            let expected = format!("{} of them, one for each of gripper.entries", gripper.entries.len());
            return refuse("gripper.weights", expected, gripper.weights.len());
        }
        if self.segment.signal != SignalChoice::Motion && gripper.entries.is_empty() {
            return refuse("gripper.entries", "at least one entry, unless segment.signal is \"motion\"", "none");
        }
        if self.segment.signal != SignalChoice::Aperture && motion.position.is_empty() {
            return refuse("motion.position", "at least one entry, unless segment.signal is \"aperture\"", "none");
        }
        if let Some(weight) = gripper.weights.iter().find(|weight| !weight.is_finite()) {
            return refuse("gripper.weights", "finite numbers", weight);
        }
        for (key, value, range) in [
            ("gripper.open_m", gripper.open_m, 1e-4..=10.0),
            ("gripper.contact_m", gripper.contact_m, 1e-5..=gripper.open_m),
            ("gripper.release_m", gripper.release_m, 1e-6..=gripper.contact_m),
            ("segment.min_open_s", self.segment.min_open_s, 0.0..=60.0),
            ("segment.min_contact_s", self.segment.min_contact_s, 0.0..=60.0),
            ("motion.slow_share", motion.slow_share, 0.0..=0.9),
            ("motion.reversal_cosine", motion.reversal_cosine, -1.0..=0.9),
            ("motion.window_s", motion.window_s, 0.0..=10.0),
            ("motion.min_segment_s", motion.min_segment_s, 0.0..=60.0),
            ("motion.min_speed", motion.min_speed, 0.0..=10.0),
        ] {
            if !range.contains(&value) {
                return refuse(key, format!("{} to {}", range.start(), range.end()), value);
            }
        }
        for (key, value) in [
            ("page.rows_per_task", self.page.rows_per_task),
            ("page.rows", self.page.rows),
            ("page.frames_per_row", self.page.frames_per_row),
        ] {
            if !(1..=MAX_SHOWN).contains(&value) {
                return refuse(key, format!("1 to {MAX_SHOWN}"), value);
            }
        }
        if self.llm.enabled { self.llm.validate() } else { Ok(()) }
    }

    /// Checks that the entries and the camera the settings speak of are in the dataset.
    pub(crate) fn fits(&self, spec: &DatasetSpec) -> Result<(), SkillsError> {
        let width = spec.proprio_dim;
        let used = [
            ("gripper.entries", &self.gripper.entries, SignalChoice::Motion),
            ("motion.position", &self.motion.position, SignalChoice::Aperture),
        ];
        for (key, entries, without) in used {
            if let Some(entry) = entries.iter().find(|entry| **entry >= width) {
                if self.segment.signal == without {
                    continue;
                }
                let expected = format!("entries below {width}, the width of the dataset's proprioception");
                return refuse(key, expected, format!("{entry} (embodiment {:?})", self.embodiment));
            }
        }
        let known: Vec<&str> = spec.cameras.iter().map(|camera| camera.name.as_str()).collect();
        if !self.page.camera.is_empty() && !known.contains(&self.page.camera.as_str()) {
            return refuse("page.camera", format!("one of {known:?}, or nothing"), format!("{:?}", self.page.camera));
        }
        Ok(())
    }
}

impl LlmConfig {
    /// Checks the settings of an endpoint that is to be used.
    pub(crate) fn validate(&self) -> Result<(), SkillsError> {
        if self.model.is_empty() {
            return refuse("llm.model", "the name of a model", "nothing");
        }
        let name = &self.key_variable;
        let is_name = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
                && !name.starts_with(|first: char| first.is_ascii_digit())
        };
        if !is_name(name) {
            // What stands there may be the key itself: it must not appear on a screen or in a log.
            let expected = "the NAME of an environment variable, in capitals, such as OPENAI_API_KEY";
            return refuse("llm.key_variable", expected, "something else, not repeated here in case it is the key");
        }
        let uri = endpoint(&self.base_url)?;
        if uri.scheme_str() == Some("http") && !name.is_empty() && !is_this_machine(&uri) {
            let expected = "https, or a server on this machine: over http everybody on the way could read the key";
            return refuse("llm.base_url", expected, format!("{:?}", self.base_url));
        }
        for (key, value, range) in [
            ("llm.temperature", f64::from(self.temperature), 0.0..=2.0),
            ("llm.timeout_s", self.timeout_s, 0.01..=3600.0),
            ("llm.attempts", f64::from(self.attempts), 1.0..=20.0),
            ("llm.backoff_s", self.backoff_s, 0.0..=300.0),
            ("llm.max_answer_kib", self.max_answer_kib as f64, 1.0..=65_536.0),
        ] {
            if !range.contains(&value) {
                return refuse(key, format!("{} to {}", range.start(), range.end()), value);
            }
        }
        Ok(())
    }
}

/// The address of the endpoint, without user names, queries or fragments.
pub(crate) fn endpoint(base_url: &str) -> Result<Uri, SkillsError> {
    let parsed = format!("{}/chat/completions", base_url.trim_end_matches('/')).parse::<Uri>().ok();
    let usable = parsed.filter(|uri| {
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_plain = uri.query().is_none() && !base_url.contains(['@', '?', '#']);
        is_web && is_plain && uri.host().is_some_and(|host| !host.is_empty())
    });
    let Some(uri) = usable else {
        // Not repeated: an address with a user name may hold a password, one with a query a key.
        let expected = "an address such as https://api.example.org/v1, without user name, query or fragment";
        return refuse("llm.base_url", expected, "something else");
    };
    Ok(uri)
}

/// Whether the endpoint runs on this machine.
pub(crate) fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn refuse<T>(key: &str, expected: impl Into<String>, got: impl ToString) -> Result<T, SkillsError> {
    Err(SkillsError::Config { key: format!("skills.{key}"), expected: expected.into(), got: got.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { schema: "prompts.toml".into(), ..Config::preset("tabletop").unwrap() }
    }

    fn refused(change: impl Fn(&mut Config)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    fn with_llm(change: impl Fn(&mut LlmConfig)) -> Result<(), SkillsError> {
        let mut config = config();
        let address = "https://api.example.org/v1".to_owned();
        config.llm = LlmConfig { enabled: true, model: "m".into(), base_url: address, ..config.llm };
        change(&mut config.llm);
        config.validate()
    }

    #[test]
    fn every_preset_is_valid_and_an_unknown_one_names_them_all() {
        for name in Config::EMBODIMENTS {
            Config { schema: "a".into(), ..Config::preset(name).unwrap() }.validate().unwrap();
        }
        let error = refused(|config| config.embodiment = "hand".into());
        assert!(Config::EMBODIMENTS.iter().all(|name| error.contains(name)), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert!(refused(|config| config.schema.clear()).starts_with("skills.schema"));
        assert!(refused(|config| config.gripper.weights.clear()).starts_with("skills.gripper.weights"));
        assert!(refused(|config| config.gripper.weights = vec![f32::NAN]).starts_with("skills.gripper.weights"));
        assert!(refused(|config| config.gripper.contact_m = f32::NAN).starts_with("skills.gripper.contact_m"));
        assert!(refused(|config| config.gripper.release_m = 0.04).starts_with("skills.gripper.release_m"));
        assert!(refused(|config| config.motion.position.clear()).starts_with("skills.motion.position"));
        assert!(refused(|config| config.page.frames_per_row = 0).starts_with("skills.page.frames_per_row"));
    }

    #[test]
    fn entries_past_the_end_of_the_proprioception_are_refused_if_they_are_used() {
        let spec = DatasetSpec { fps: 20, cameras: Vec::new(), proprio_dim: 8, action_dim: 7, robot_type: None };
        let mut config = config();
        assert!(config.fits(&spec).unwrap_err().to_string().contains("below 8"));
        config.segment.signal = SignalChoice::Motion;
        config.fits(&spec).unwrap();
    }

    #[test]
    fn a_key_in_place_of_its_variable_is_refused_and_not_repeated() {
        let error = with_llm(|llm| llm.key_variable = "sk-very-secret".into()).unwrap_err().to_string();
        assert!(error.contains("NAME") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn addresses_that_would_leak_or_lead_nowhere_are_refused() {
        for address in
            ["", "api.example.org", "ftp://a/v1", "https://me:pass@a/v1", "https://a/v1?key=pass", "https://"]
        {
            let error = with_llm(|llm| llm.base_url = address.into()).unwrap_err().to_string();
            assert!(error.starts_with("skills.llm.base_url") && !error.contains("pass"), "{address}: {error}");
        }
        let plain = |host: &str| {
            with_llm(|llm| {
                llm.base_url = format!("http://{host}/v1");
                llm.key_variable = "KEY".into();
            })
        };
        assert!(plain("example.org").unwrap_err().to_string().contains("https"));
        for host in ["localhost:8000", "127.0.0.1:1", "[::1]:8000"] {
            plain(host).unwrap();
        }
    }
}
