//! Where the parts of a Cosmos-Predict2 checkpoint lie in a folder: as NVIDIA publishes them, or as diffusers saves them.

use std::path::{Path, PathBuf};

use w2a_nn::NnError;

/// Settings beside the weights, all of which have defaults.
const SETTINGS: &str = "cosmos.json";
/// Embedded prompts, unless the settings name another folder.
pub(crate) const PROMPTS: &str = "prompts";

/// Names under which diffusers and transformers save weights, the index of shards first.
const SAVED: [&str; 5] = [
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
];

/// A folder with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosmosFolder {
    dir: PathBuf,
}

impl CosmosFolder {
    /// The checkpoint in `dir`; nothing is read yet.
    ///
    /// # Errors
    /// What is no folder.
    pub fn open(dir: &Path) -> Result<Self, NnError> {
        if dir.is_dir() {
            return Ok(Self { dir: dir.to_owned() });
        }
        Err(NnError::Input {
            what: format!("folder of Cosmos-Predict2 {}", dir.display()),
            expected: "a folder with model-480p-16fps.pt and tokenizer/tokenizer.pth, or with transformer and vae"
                .into(),
            got: if dir.exists() { "no folder".into() } else { "nothing; check the path".into() },
        })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its settings file, if it has one.
    pub fn settings(&self) -> Option<PathBuf> {
        Some(self.dir.join(SETTINGS)).filter(|path| path.is_file())
    }

    /// The folder of embedded prompts.
    pub fn prompts(&self) -> PathBuf {
        self.dir.join(PROMPTS)
    }

    /// The weights of the DiT: `named` if it is given, else the only ones there are.
    ///
    /// # Errors
    /// None, or several to choose from.
    pub fn dit(&self, named: Option<&str>) -> Result<PathBuf, NnError> {
        if let Some(name) = named {
            let path = self.dir.join(name);
            if path.is_file() {
                return Ok(path);
            }
            return Err(self.lacks("checkpoint", &format!("the file {name} in {}", self.dir.display())));
        }
        let mut found: Vec<PathBuf> = SAVED.map(|name| self.dir.join("transformer").join(name)).into();
        found.retain(|path| path.is_file());
        found.truncate(1);
        let io = |source| NnError::Io { action: "reading the folder of a checkpoint", source };
        for entry in fs_err::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("model") && matches!(ending, Some("pt" | "safetensors")) && path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        match &found[..] {
            [only] => Ok(only.clone()),
            [] => {
                Err(self
                    .lacks("DiT", "model-480p-16fps.pt or another model-*.pt, or transformer/ as diffusers saves it"))
            }
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|path| path.strip_prefix(&self.dir).unwrap_or(path).display().to_string())
                    .collect();
                Err(NnError::Input {
                    what: format!("DiT in {}", self.dir.display()),
                    expected: "one checkpoint, or --world.checkpoint=NAME to choose one".into(),
                    got: names.join(", "),
                })
            }
        }
    }

    /// The weights of the video autoencoder.
    ///
    /// # Errors
    /// None.
    pub fn vae(&self) -> Result<PathBuf, NnError> {
        let own = ["tokenizer/tokenizer.pth", "tokenizer.pth", "Wan2.1_VAE.pth"].map(PathBuf::from);
        let saved = SAVED.map(|name| Path::new("vae").join(name));
        let expected = "tokenizer/tokenizer.pth, Wan2.1_VAE.pth, or vae/ as diffusers saves it";
        self.first(own.into_iter().chain(saved)).ok_or_else(|| self.lacks("video autoencoder", expected))
    }

    /// The weights and the configuration of the text encoder.
    ///
    /// # Errors
    /// None.
    pub fn text_encoder(&self) -> Result<(PathBuf, PathBuf), NnError> {
        let folders = ["text_encoder", "t5-11b", "google-t5/t5-11b"];
        let saved = folders.iter().flat_map(|folder| SAVED.map(|name| Path::new(folder).join(name)));
        let expected = "text_encoder/ or t5-11b/ with config.json and the weights of T5";
        let weights = self.first(saved).ok_or_else(|| self.lacks("text encoder", expected))?;
        let config = weights.with_file_name("config.json");
        if config.is_file() { Ok((weights, config)) } else { Err(self.lacks("text encoder's configuration", expected)) }
    }

    /// The `tokenizer.json` of the text encoder.
    ///
    /// # Errors
    /// None.
    pub fn tokenizer(&self) -> Result<PathBuf, NnError> {
        let folders = ["tokenizer", "text_encoder", "t5-11b", "google-t5/t5-11b"];
        let places = folders.iter().map(|folder| Path::new(folder).join("tokenizer.json"));
        self.first(places)
            .ok_or_else(|| self.lacks("tokenizer", "tokenizer/tokenizer.json, or one beside the text encoder"))
    }

    fn first(&self, places: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
        places.map(|place| self.dir.join(place)).find(|path| path.is_file())
    }

    fn lacks(&self, what: &str, expected: &str) -> NnError {
        NnError::Input {
            what: format!("{what} in {}", self.dir.display()),
            expected: expected.to_owned(),
            got: "none; copy it there".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::CosmosFolder;

    fn touch(dir: &Path, name: &str) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn parts_are_found_in_both_layouts_and_missing_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert!(CosmosFolder::open(&dir.join("absent")).unwrap_err().to_string().contains("check the path"));
        let cosmos = CosmosFolder::open(dir).unwrap();
        assert!(cosmos.dit(None).unwrap_err().to_string().contains("model-480p-16fps.pt"));
        assert!(cosmos.vae().unwrap_err().to_string().contains("tokenizer.pth"));
        assert!(cosmos.text_encoder().unwrap_err().to_string().contains("text_encoder/"));
        assert!(cosmos.tokenizer().unwrap_err().to_string().contains("tokenizer.json"));
        for name in ["model-480p-16fps.pt", "tokenizer/tokenizer.pth", "t5-11b/pytorch_model.bin"] {
            touch(dir, name);
        }
        assert!(cosmos.dit(None).unwrap().ends_with("model-480p-16fps.pt"));
        assert!(cosmos.vae().unwrap().ends_with("tokenizer/tokenizer.pth"));
        assert!(cosmos.text_encoder().unwrap_err().to_string().contains("configuration"));
        touch(dir, "t5-11b/config.json");
        assert!(cosmos.text_encoder().unwrap().0.ends_with("pytorch_model.bin"));
        touch(dir, "transformer/diffusion_pytorch_model.safetensors.index.json");
        let several = cosmos.dit(None).unwrap_err().to_string();
        assert!(several.contains("--world.checkpoint=NAME") && several.contains("transformer/"), "{several}");
        assert!(cosmos.dit(Some("model-480p-16fps.pt")).is_ok());
        assert!(cosmos.dit(Some("model-720p.pt")).unwrap_err().to_string().contains("model-720p.pt"));
    }
}
