//! `world embed-prompts`: the prompts of a task set, embedded once for Cosmos-Predict2.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use w2a_report::Progress;
use w2a_world::Rig;
use w2a_world::cosmos::{CosmosConfig, CosmosFolder, PromptEncoder, PromptStore};

use super::error::ImagineError;
use super::inputs;
use super::source::prompts_of;
use crate::PipelineError;
use crate::context::model;

/// Longer lists of prompts are files in the wrong place.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Which prompts, and for which model.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// A folder of episodes as for `world imagine`, or a text file with a prompt in each line.
    pub input: PathBuf,
    /// The folder of the checkpoint.
    pub path: PathBuf,
    /// Its settings: the negative prompt is embedded too.
    pub config: CosmosConfig,
    /// Name the views of this rig in every prompt.
    pub rig: Option<Rig>,
}

/// Embeds the prompts that are not embedded yet, and gives a line for the terminal. Without any, the text encoder need not be
/// there.
///
/// # Errors
/// An input without prompts, a text encoder that is missing or of another form, a prompt that is too long, a full disk.
pub fn embed_prompts(request: &EmbedRequest) -> Result<String, PipelineError> {
    let mut prompts = read_prompts(&request.input, request.rig)?;
    let negative = &request.config.negative_prompt;
    if !negative.is_empty() && !prompts.contains(negative) {
        prompts.push(negative.clone());
    }
    let folder = model(CosmosFolder::open(&request.path))?;
    let store = PromptStore::new(request.config.prompts.clone().unwrap_or_else(|| folder.prompts()));
    let new = embed_missing(&folder, &store, &prompts)?;
    let old = prompts.len() - new;
    Ok(format!("{new} prompts embedded, {old} known before: {}\n", store.dir().display()))
}

/// Embeds those of `prompts` that are not in `store`, and gives their number. Without any, the text encoder need not be there.
///
/// # Errors
/// As [`embed_prompts`].
pub(crate) fn embed_missing(
    folder: &CosmosFolder,
    store: &PromptStore,
    prompts: &[String],
) -> Result<usize, PipelineError> {
    let mut known = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        known.push(model(store.get(prompt))?.map(|(_, encoder)| encoder));
    }
    if known.iter().all(Option::is_some) {
        return Ok(0);
    }
    let encoder = model(PromptEncoder::open(folder, &Device::flex()))?;
    let digest = model(encoder.digest())?;
    // What another encoder made is made anew: the prompts of one model belong together.
    let outdated = prompts.iter().zip(&known).filter(|(_, known)| known.as_ref() != Some(&digest));
    let missing: Vec<&str> = outdated.map(|(prompt, _)| prompt.as_str()).collect();
    let progress = Progress::new(&[("embed", 1.0)]);
    progress.start("embed");
    let embedded =
        model(encoder.embed(&missing, |done, total| progress.tick(done as u64, total as u64, "blocks of T5")))?;
    for (prompt, embedding) in missing.iter().zip(&embedded) {
        model(store.put(prompt, &digest, embedding))?;
    }
    progress.finish("embed");
    Ok(missing.len())
}

/// The prompts of a folder of episodes or of a text file, each once.
fn read_prompts(input: &Path, rig: Option<Rig>) -> Result<Vec<String>, PipelineError> {
    if !input.is_file() {
        let episodes = inputs::plan(input)?.into_iter().collect::<Result<Vec<_>, ImagineError>>()?;
        // Here a prompt that cannot be read is an error: it would be missing later.
        for episode in &episodes {
            episode.read_prompts()?;
        }
        return prompts_of(&episodes.iter().collect::<Vec<_>>(), rig);
    }
    let text = inputs::read(input, MOST_BYTES, "a list of prompts")?;
    let wrong = |got: String| ImagineError::Place {
        path: input.to_owned(),
        expected: "a prompt in each line, as text in UTF-8".into(),
        got,
    };
    let text = String::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    let mut prompts: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let prompt = rig.map_or_else(|| line.to_owned(), |rig| rig.prompt(line));
        if !prompts.contains(&prompt) {
            prompts.push(prompt);
        }
    }
    if prompts.is_empty() { Err(wrong("none".into()).into()) } else { Ok(prompts) }
}
