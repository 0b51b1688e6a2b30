//! The prompts of each instruction, from a file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::answer::check_prompts;
use crate::error::SkillsError;

/// Largest file that is read, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// For each instruction the atomic prompts in the order in which they are done.
///
/// A TOML file (or JSON, if its name ends in `.json`) with one table, `tasks`:
///
/// ```toml
/// [tasks]
/// "put the red block in the bowl, then close the drawer" = ["put the red block in the bowl", "close the drawer"]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    tasks: BTreeMap<String, Vec<String>>,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// [`SkillsError::Schema`] if it cannot be read, is not of this form, or holds prompts that cannot be one.
    pub fn read(path: &Path) -> Result<Self, SkillsError> {
        let fail = |reason: String| SkillsError::Schema { path: path.to_owned(), reason };
        let size = fs_err::metadata(path).map_err(|error| fail(format!("{error}; check `skills.schema`")))?.len();
        if size > MAX_BYTES {
            return Err(fail(format!("it has {size} bytes, expected at most {MAX_BYTES}; is it the right file?")));
        }
        let text = fs_err::read_to_string(path).map_err(|error| fail(format!("{error}; it has to be UTF-8")))?;
        let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        Self::parse(&text, is_json).map_err(fail)
    }

    /// Reads a schema from text; the error is a reason in words.
    pub(crate) fn parse(text: &str, is_json: bool) -> Result<Self, String> {
        let form = "it needs one table, `tasks`, with a list of prompts for each instruction";
        let schema: Self = if is_json {
            serde_json::from_str(text).map_err(|error| format!("{error}; {form}"))?
        } else {
            toml::from_str(text).map_err(|error| format!("{}; {form}", error.to_string().trim()))?
        };
        for (instruction, prompts) in &schema.tasks {
            check_prompts(prompts).map_err(|refusal| format!("the prompts of {instruction:?}: {refusal}"))?;
        }
        Ok(schema)
    }

    /// The prompts of an instruction, if the schema has it in exactly these words.
    pub fn prompts(&self, instruction: &str) -> Option<&[String]> {
        self.tasks.get(instruction).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn toml_and_json_mean_the_same() {
        let toml = Schema::parse("[tasks]\n\"a and b\" = [\"a\", \"b\"]\n", false).unwrap();
        let json = Schema::parse(r#"{"tasks": {"a and b": ["a", "b"]}}"#, true).unwrap();
        assert_eq!(toml, json);
        assert_eq!(toml.prompts("a and b").unwrap(), ["a", "b"]);
        assert_eq!(toml.prompts("a"), None);
    }

    #[test]
    fn files_that_are_no_schema_are_refused_with_the_form_they_need() {
        for text in
            ["", "tasks = 3", "[tasks]\na = \"b\"", "[task]\na = [\"b\"]", "[tasks]\na = [\"b\"]\n[more]\n", "\u{0}"]
        {
            let error = Schema::parse(text, false).unwrap_err();
            assert!(error.contains("one table, `tasks`"), "{text:?}: {error}");
        }
        for text in ["", "[]", "{\"tasks\": []}", "{\"tasks\": {\"a\": [1]}}", "{\"tasks\": {}} {}"] {
            assert!(Schema::parse(text, true).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_instruction_without_prompts_or_with_empty_ones_is_refused_by_name() {
        for text in
            ["[tasks]\n\"do it\" = []", "[tasks]\n\"do it\" = [\"a\", \" \"]", "[tasks]\n\"do it\" = [\"a\\nb\"]"]
        {
            let error = Schema::parse(text, false).unwrap_err();
            assert!(error.contains("do it"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Schema::read(Path::new("absent/prompts.toml")).unwrap_err().to_string();
        assert!(error.contains("absent/prompts.toml") && error.contains("skills.schema"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in ".{0,200}", is_json in any::<bool>()) {
            if let Ok(schema) = Schema::parse(&text, is_json) {
                prop_assert!(schema.tasks.values().all(|prompts| check_prompts(prompts).is_ok()));
            }
        }
    }
}
