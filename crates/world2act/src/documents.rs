//! Tests that the documents speak of the program as it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::args::{
    Action, EMBED_HELP, EVALUATE_HELP, FINETUNE_HELP, IMAGINE_HELP, LONG_HELP, SERVE_HELP, SKILLS_HELP, parse,
};
use crate::resolve::printed_config;
use crate::skills::config as skills_config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below `folder` that end in `ending`.
fn files(folder: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.to_string_lossy().ends_with(ending) {
            out.push(path);
        }
    }
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(&root().join("docs"), ".md", &mut paths);
    let top = ["README.md", "ARCHITECTURE.md", "DESIGN.md", "CHANGELOG.md"].map(|name| root().join(name));
    paths.extend(top.into_iter().filter(|path| path.exists()));
    paths.into_iter().map(|path| (path.clone(), fs_err::read_to_string(path).unwrap())).collect()
}

/// The lines of a text's code blocks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).flat_map(str::lines)
}

/// The arguments of a line that starts the program; comments and redirections are cut off.
fn arguments(line: &str) -> Option<Vec<OsString>> {
    let line = line.trim().trim_start_matches("$ ");
    let ours = ["cargo run --release -- ", "target/release/world2act ", "world2act "];
    let rest = ours.iter().find_map(|start| line.strip_prefix(start))?;
    let rest = rest.split("  ").next()?.split(" #").next()?.split(['>', '|']).next()?;
    let words = rest.split_whitespace().map(|word| OsString::from(word.trim_matches('\'')));
    Some(std::iter::once("world2act".into()).chain(words).collect())
}

#[test]
fn every_command_in_the_documents_and_the_help_is_understood() {
    let mut commands: Vec<(String, Vec<OsString>)> = Vec::new();
    for (path, text) in documents() {
        let found = code(&text).filter_map(arguments).map(|words| (path.display().to_string(), words));
        commands.extend(found);
    }
    let help = [LONG_HELP, IMAGINE_HELP, EMBED_HELP, EVALUATE_HELP, FINETUNE_HELP, SERVE_HELP, SKILLS_HELP]
        .into_iter()
        .flat_map(str::lines);
    commands.extend(help.filter_map(arguments).map(|words| ("the help".into(), words)));
    assert!(commands.len() >= 6, "{commands:?}");
    for (place, words) in commands {
        let layers = match parse(words.clone()).unwrap_or_else(|error| panic!("{place}: {words:?}: {error}")) {
            Action::Run(run) => run.layers,
            Action::Config(layers) => layers,
            Action::Skills(asked) => {
                if asked.config.is_none() {
                    skills_config(&asked).unwrap_or_else(|error| panic!("{place}: {words:?}: {error}"));
                }
                continue;
            }
            Action::Doctor
            | Action::Parity { .. }
            | Action::World(_)
            | Action::Serve(_)
            | Action::Policy(_)
            | Action::Evaluate(_)
            | Action::InspectData { .. }
            | Action::ConvertData { .. }
            | Action::ListWeights(_)
            | Action::ConvertWeights { .. } => continue,
        };
        // Settings are checked too, except where they come from a file that the reader is to write.
        if layers.config.is_none() {
            printed_config(&layers).unwrap_or_else(|error| panic!("{place}: {words:?}: {error}"));
        }
    }
}

#[test]
fn every_message_in_the_troubleshooting_exists() {
    let mut paths = Vec::new();
    for crate_folder in fs_err::read_dir(root().join("crates")).unwrap() {
        files(&crate_folder.unwrap().path().join("src"), ".rs", &mut paths);
    }
    let mut source = String::new();
    for path in paths {
        source.push_str(&fs_err::read_to_string(path).unwrap());
    }
    // As the compiler reads string literals: escaped quotes, and lines continued after a backslash.
    let source = source.replace("\\\"", "\"").split("\\\n").map(str::trim_start).collect::<String>();
    let text = fs_err::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let (mut checked, mut missing) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap();
        let fence = if cell.starts_with("``") { "``" } else { "`" };
        for message in cell.split(fence).skip(1).step_by(2) {
            // An ellipsis stands for what the message fills in.
            for part in message.split('…').filter(|part| part.trim().len() > 3) {
                checked += 1;
                if !source.contains(part.trim()) {
                    missing.push((part, message));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no message has (part, of message): {missing:#?}");
    assert!(checked > 30, "{checked}");
}
