//! Which components can be compared with reference numbers.

use std::path::Path;

use burn::tensor::Device;
use w2a_nn::{Fixture, NnError, ParityReport};
use w2a_policy::groot::parity as groot;

use crate::PipelineError;

/// Runs a component on the inputs of a fixture and compares what comes out.
type Check = fn(&mut Fixture, &Device) -> Result<(), NnError>;

/// Components by the name that a fixture's `config.json` or folder begins with; the longest match counts.
const COMPONENTS: &[(&str, Check)] = &[
    ("stage1_v2", w2a_align::parity::stage1_v2),
    ("stage1_action_vae", w2a_align::parity::stage1_action_vae),
    ("cosmos_dit", w2a_world::cosmos::parity::cosmos_dit),
    ("cosmos_train", w2a_world::cosmos::cosmos_train),
    ("wan_vae", w2a_world::cosmos::parity::wan_vae),
    ("t5_encoder", w2a_world::cosmos::parity::t5_encoder),
    ("gr00t_preprocess", groot::gr00t_preprocess),
    ("gr00t_vlm", groot::gr00t_vlm),
    ("gr00t_action_head", groot::gr00t_action_head),
];

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct Parity {
    /// Name of the component.
    pub component: &'static str,
    /// Every tensor of the fixture.
    pub report: ParityReport,
}

/// Compares the component of the fixture in `dir`, run on `device`, with the reference numbers in it.
///
/// # Errors
/// An unknown device or component, or a fixture that is incomplete. Numbers that do not agree are no error: they are in
/// the report.
pub fn parity(dir: &Path, device: &str) -> Result<Parity, PipelineError> {
    let device = w2a_nn::device(device)?;
    // Messages have no weights and no sizes, so that their folder is one of its own kind.
    if dir.join(w2a_serve::parity::INDEX).exists() {
        return Ok(Parity { component: "wire", report: w2a_serve::parity::frames(dir)? });
    }
    let mut fixture = Fixture::open(dir)?;
    let name = fixture.component();
    // By prefix, so that a second fixture of a component may have a name of its own.
    let found = COMPONENTS.iter().filter(|(prefix, _)| name.starts_with(prefix)).max_by_key(|(prefix, _)| prefix.len());
    let Some((component, check)) = found else {
        let known: Vec<&str> = COMPONENTS.iter().map(|(name, _)| *name).collect();
        return Err(PipelineError::Config {
            key: format!("component of {}", dir.display()),
            expected: format!("one of {}", known.join(", ")),
            got: format!("{name:?}"),
        });
    };
    check(&mut fixture, &device)?;
    let mut report = fixture.finish();
    // Messages may lie beside the numbers of the component that they are about.
    let messages = dir.join("wire");
    if messages.join(w2a_serve::parity::INDEX).exists() {
        report.lines.extend(w2a_serve::parity::frames(&messages)?.lines);
    }
    Ok(Parity { component, report })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::parity;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../w2a-align/testdata").join(name)
    }

    /// A copy of a fixture that `change` has been at; gives the message or the report.
    fn changed(name: &str, change: impl Fn(&Path)) -> Result<super::Parity, String> {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        change(folder.path());
        parity(folder.path(), "cpu").map_err(|error| {
            assert!(error.is_users_mistake(), "{error}");
            error.to_string()
        })
    }

    fn replace(dir: &Path, from: &str, to: &str) {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    #[test]
    fn a_wrong_number_anywhere_fails_and_is_named() {
        let report =
            changed("stage1_v2", |dir| replace(dir, "\"temperature\": 0.1", "\"temperature\": 0.2")).unwrap().report;
        assert!(!report.holds());
        let text = report.to_string();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("io/bidirectional.loss.v2a").ends_with("FAILED"), "{text}");
        assert!(line("io/z_video").ends_with("ok"), "{text}");
    }

    #[test]
    fn golden_frames_of_the_wire_are_a_component() {
        let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("../w2a-serve/testdata/wire");
        let found = parity(&frames, "cpu").unwrap();
        assert!(found.component == "wire" && found.report.holds(), "{}", found.report);
    }

    #[test]
    fn what_cannot_be_compared_is_the_users_to_mend() {
        let unknown = changed("stage1_v2", |dir| replace(dir, "stage1_v2", "resnet")).unwrap_err();
        assert!(unknown.contains("resnet") && unknown.contains("stage1_action_vae"), "{unknown}");
        let remove =
            |name: &'static str| changed("stage1_v2", move |dir| std::fs::remove_file(dir.join(name)).unwrap());
        assert!(remove("weights.safetensors").unwrap_err().contains("weights.safetensors"));
        assert!(remove("config.json").unwrap_err().contains("config.json"));
        let sizes = changed("stage1_v2", |dir| replace(dir, "\"latent_dim\": 16", "\"latent_dim\": 8")).unwrap_err();
        assert!(sizes.contains("16") && sizes.contains('8'), "{sizes}");
        let gelu = changed("stage1_action_vae", |dir| replace(dir, "erf", "tanh")).unwrap_err();
        assert!(gelu.contains("gelu") && gelu.contains("tanh"), "{gelu}");
        let odd = changed("stage1_action_vae", |dir| replace(dir, "\"t_vid\": 4", "\"t_vid\": 6")).unwrap_err();
        assert!(odd.contains("t_vid"), "{odd}");
        assert!(parity(Path::new("absent"), "cpu").unwrap_err().is_users_mistake());
        let device = parity(&fixture("stage1_v2"), "abacus").unwrap_err();
        assert!(device.is_users_mistake() && device.to_string().contains("cpu"), "{device}");
    }
}
