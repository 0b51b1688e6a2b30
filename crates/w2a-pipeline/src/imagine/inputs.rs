//! Folders of episodes to imagine, in the layout of the authors' release: `first_frame.png` with `aa_0.txt`, `aa_1.txt`, …
//! (one skill prompt each) or `prompt.txt`.

use std::path::{Path, PathBuf};

use w2a_world::GridVideo;

use super::error::ImagineError;

/// The picture that an episode begins with.
pub(crate) const FIRST_FRAME: &str = "first_frame.png";
/// The prompt of an episode that is not cut into skills.
pub(crate) const PROMPT: &str = "prompt.txt";
/// Longer texts are no prompts but files in the wrong place.
const MOST_PROMPT_BYTES: u64 = 16 * 1024;
/// Larger files are no first frames.
const MOST_IMAGE_BYTES: u64 = 256 * 1024 * 1024;

/// An episode to imagine; nothing of it is read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Episode {
    /// Path from the input folder, with `/` between its parts: names its random stream and its result.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its prompts' files, in order.
    pub prompts: Vec<PathBuf>,
}

/// All episodes below `input`, sorted by name; those at fault are in their places.
///
/// # Errors
/// A folder that cannot be read or holds no episode.
pub(crate) fn plan(input: &Path) -> Result<Vec<Result<Episode, ImagineError>>, ImagineError> {
    let mut found = Vec::new();
    walk(input, "", &mut found)?;
    if found.is_empty() {
        return Err(ImagineError::Place {
            path: input.to_owned(),
            expected: format!("a folder per episode, with {FIRST_FRAME} and aa_0.txt, aa_1.txt, ... or {PROMPT}"),
            got: "none".into(),
        });
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, episode)| episode).collect())
}

type Found = (String, Result<Episode, ImagineError>);

fn walk(folder: &Path, name: &str, found: &mut Vec<Found>) -> Result<(), ImagineError> {
    let unreadable = |error: std::io::Error| ImagineError::Place {
        path: folder.to_owned(),
        expected: "a folder that can be read".into(),
        got: error.to_string(),
    };
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Links to folders are not followed: they may lead round in circles.
        let is_folder = entry.file_type().map_err(unreadable)?.is_dir();
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with('.') => {}
            Ok(name) if is_folder => folders.push(name),
            Ok(name) => files.push(name),
            // Random streams are named by it, and two such names may look alike.
            Err(_) if is_folder => {
                let path = entry.path();
                let name = format!("{name}/{}", path.display());
                found.push((name, Err(ImagineError::episode(path, "a folder name in UTF-8", "other bytes"))));
            }
            Err(_) => {}
        }
    }
    if let Some(episode) = episode(folder, name, &files) {
        found.push((name.to_owned(), episode));
    }
    folders.sort();
    for child in folders {
        let name = if name.is_empty() { child.clone() } else { format!("{name}/{child}") };
        match walk(&folder.join(child), &name, found) {
            Err(ImagineError::Place { path, expected, got }) => {
                found.push((name, Err(ImagineError::Episode { path, expected, got })));
            }
            done => done?,
        }
    }
    Ok(())
}

/// The episode of a folder with these files; `None` if none of them belongs to one.
fn episode(folder: &Path, name: &str, files: &[String]) -> Option<Result<Episode, ImagineError>> {
    let skills: Vec<&str> = files.iter().filter_map(|file| file.strip_prefix("aa_")?.strip_suffix(".txt")).collect();
    let has = |name: &str| files.iter().any(|file| file == name);
    if !has(FIRST_FRAME) && !has(PROMPT) && skills.is_empty() {
        return None;
    }
    if !has(FIRST_FRAME) {
        return Some(Err(ImagineError::episode(folder, FIRST_FRAME, "prompts only")));
    }
    let prompts = if skills.is_empty() { vec![PROMPT.to_owned()] } else { Vec::new() };
    if !prompts.is_empty() && !has(PROMPT) {
        return Some(Err(ImagineError::episode(folder, format!("aa_0.txt, aa_1.txt, ... or {PROMPT}"), "no prompt")));
    }
    let prompts = if skills.is_empty() { Ok(prompts) } else { in_order(&skills) };
    Some(match prompts {
        Err((expected, got)) => Err(ImagineError::episode(folder, expected, got)),
        Ok(prompts) => {
            let prompts = prompts.iter().map(|file| folder.join(file)).collect();
            Ok(Episode { name: name.to_owned(), folder: folder.to_owned(), prompts })
        }
    })
}

/// The names of skill prompts by their numbers, which have to be 0, 1, 2 and so on; else what was expected and found.
fn in_order(skills: &[&str]) -> Result<Vec<String>, (String, String)> {
    let mut numbered = Vec::with_capacity(skills.len());
    for text in skills {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<usize>() {
            Ok(number) if digits => numbered.push((number, format!("aa_{text}.txt"))),
            _ => return Err(("a number in the name of a skill prompt".into(), format!("aa_{text}.txt"))),
        }
    }
    numbered.sort();
    match numbered.iter().enumerate().find(|(index, (number, _))| index != number) {
        Some((index, (_, file))) => Err((format!("skill prompts 0, 1, 2, ..., next number {index}"), file.clone())),
        None => Ok(numbered.into_iter().map(|(_, file)| file).collect()),
    }
}

impl Episode {
    /// Its prompts, without white space around them.
    ///
    /// # Errors
    /// A text that cannot be read, is empty or too long, or is not UTF-8.
    pub fn read_prompts(&self) -> Result<Vec<String>, ImagineError> {
        self.prompts
            .iter()
            .map(|path| {
                let bytes = read(path, MOST_PROMPT_BYTES, "a prompt")?;
                let text = String::from_utf8(bytes)
                    .map_err(|error| ImagineError::episode(path, "a text in UTF-8", error.to_string()))?;
                match text.trim() {
                    "" => Err(ImagineError::episode(path, "a prompt", "an empty text")),
                    text => Ok(text.to_owned()),
                }
            })
            .collect()
    }

    /// Its first frame, which has to have `size` (rows, columns).
    ///
    /// # Errors
    /// A file that cannot be read, is no PNG of RGB, or has another size.
    pub fn read_first_frame(&self, (height, width): (usize, usize)) -> Result<GridVideo, ImagineError> {
        let path = self.folder.join(FIRST_FRAME);
        let bytes = read(&path, MOST_IMAGE_BYTES, "an image")?;
        let expected = format!("an RGB image of {height}x{width}, as the world model sees");
        let rgb = w2a_data::decode_png(&bytes, height, width)
            .map_err(|error| ImagineError::episode(&path, expected, format!("one that {error}")))?;
        Ok(GridVideo { height, width, rgb })
    }
}

/// Reads a file of at most `most` bytes, which is `what`.
pub(crate) fn read(path: &Path, most: u64, what: &str) -> Result<Vec<u8>, ImagineError> {
    let fail = |got: String| ImagineError::episode(path, format!("{what} of at most {most} bytes"), got);
    let found = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    // Of a pipe one would wait for an end that never comes.
    if !found.is_file() || found.len() > most {
        return Err(fail(if found.is_file() { format!("{} bytes", found.len()) } else { "no file".into() }));
    }
    std::fs::read(path).map_err(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{in_order, plan};

    fn write(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, " lift it\n").unwrap();
        }
    }

    fn names(root: &Path) -> Vec<String> {
        let episode = |found: Result<super::Episode, _>| match found {
            Ok(episode) => format!("{} {}", episode.name, episode.prompts.len()),
            Err(error) => format!("{error}"),
        };
        plan(root).unwrap().into_iter().map(episode).collect()
    }

    #[test]
    fn episodes_are_found_at_any_depth_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let skills: Vec<String> = (0..11).map(|index| format!("b/c/aa_{index}.txt")).collect();
        write(folder.path(), &["b/c/first_frame.png", "b/c/prompt.txt", "a/first_frame.png", "a/prompt.txt"]);
        write(folder.path(), &["notes.txt", ".hidden/first_frame.png"]);
        write(folder.path(), &skills.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(names(folder.path()), ["a 1", "b/c 11"]);
        let episode = plan(folder.path()).unwrap().remove(1).unwrap();
        assert!(episode.prompts[10].ends_with("aa_10.txt") && episode.prompts[2].ends_with("aa_2.txt"));
        assert_eq!(episode.read_prompts().unwrap(), ["lift it"; 11]);
    }

    #[test]
    fn a_missing_frame_a_missing_prompt_and_missing_skills_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a/prompt.txt", "b/first_frame.png", "c/first_frame.png", "c/aa_0.txt", "c/aa_2.txt"]);
        write(folder.path(), &["d/first_frame.png", "d/aa_x.txt", "e/first_frame.png", "e/aa_0.txt", "e/aa_00.txt"]);
        let found = names(folder.path());
        for (found, words) in found.iter().zip([
            "expected first_frame.png, got prompts only",
            "or prompt.txt, got no prompt",
            "next number 1, got aa_2.txt",
            "a number in the name of a skill prompt, got aa_x.txt",
            "next number 1, got aa_00.txt",
        ]) {
            assert!(found.contains(words) && found.contains("--skip-bad"), "{found}");
        }
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn an_empty_folder_and_one_that_is_not_there_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(plan(folder.path()).unwrap_err().to_string().contains("a folder per episode"));
        assert!(plan(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn prompts_that_are_empty_no_text_or_too_long_and_frames_that_are_no_png_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a/first_frame.png", "a/prompt.txt"]);
        let episode = plan(folder.path()).unwrap().remove(0).unwrap();
        for (bytes, words) in
            [(&b" \n"[..], "an empty text"), (b"\xff\xfe", "a text in UTF-8"), (&vec![b'a'; 20_000], "20000 bytes")]
        {
            fs_err::write(folder.path().join("a/prompt.txt"), bytes).unwrap();
            let error = episode.read_prompts().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("prompt.txt"), "{error}");
        }
        let error = episode.read_first_frame((4, 8)).unwrap_err().to_string();
        assert!(error.contains("an RGB image of 4x8") && error.contains("no readable PNG"), "{error}");
        let png = w2a_data::encode_png(&[7; 4 * 4 * 3], 4, 4).unwrap();
        fs_err::write(folder.path().join("a/first_frame.png"), &png).unwrap();
        let error = episode.read_first_frame((4, 8)).unwrap_err().to_string();
        assert!(error.contains("is 4x4, expected 4x8"), "{error}");
        assert_eq!(episode.read_first_frame((4, 4)).unwrap().rgb, [7; 48]);
    }

    proptest! {
        #[test]
        fn any_names_of_skill_prompts_are_put_in_order_or_refused(texts in proptest::collection::vec("[0-9x+-]{0,3}", 1..6)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            match in_order(&texts) {
                Err((expected, got)) => prop_assert!(!expected.is_empty() && got.starts_with("aa_")),
                Ok(files) => {
                    prop_assert_eq!(files.len(), texts.len());
                    for (index, file) in files.iter().enumerate() {
                        let number = file.strip_prefix("aa_").and_then(|file| file.strip_suffix(".txt")).unwrap();
                        prop_assert_eq!(number.parse::<usize>().unwrap(), index);
                    }
                }
            }
        }
    }
}
