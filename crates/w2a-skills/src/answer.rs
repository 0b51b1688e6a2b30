//! What a language model may say, and nothing else.
//!
//! Two questions are asked ([`crate::question`]). To the first the answer is a list of prompts; to the second, one of
//! the segment indices that were given for each prompt, in order. There is no place for a frame or a time in either, so
//! none can be invented. An answer that breaks a rule is refused as a whole, with the rule.

use serde::Deserialize;

/// Prompts of one instruction at most.
pub const MAX_PROMPTS: usize = 32;
/// Characters of a prompt at most.
pub const MAX_PROMPT_CHARS: usize = 300;

/// Why an answer is not used. It is text of the model's in part, so it is short and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No JSON object of the form that was asked for.
    #[error("the answer is not of the form that was asked for: {0}")]
    Form(String),
    /// No prompt, or too many.
    #[error("there are {0} prompts, expected 1 to {MAX_PROMPTS}")]
    Count(usize),
    /// A prompt that cannot be one.
    #[error("prompt {0} is empty, longer than {MAX_PROMPT_CHARS} characters or holds control characters")]
    Prompt(usize),
    /// Not one index for each prompt.
    #[error("there are {got} segment indices, expected one for each of {prompts} prompts")]
    Indices {
        /// How many were given.
        got: usize,
        /// How many were wanted.
        prompts: usize,
    },
    /// A prompt for which the model found no segment.
    #[error("the model found no segment for prompt {0}")]
    Unmatched(usize),
    /// An index that was not among those given.
    #[error("segment {index} does not exist, there are {segments}")]
    Invented {
        /// The index.
        index: i64,
        /// How many segments there are.
        segments: usize,
    },
    /// Indices that do not ascend.
    #[error("segment {next} comes after segment {previous}, expected ascending indices without repetition")]
    Order {
        /// An index.
        previous: usize,
        /// The one after it.
        next: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    prompts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    segments: Vec<Option<i64>>,
}

/// The atomic prompts in an answer to [`crate::question::split`], trimmed.
///
/// # Errors
/// [`Refusal`] if it is not `{"prompts": [...]}` or a prompt cannot be one.
pub fn parse_split(text: &str) -> Result<Vec<String>, Refusal> {
    let split: Split = object(text)?;
    let prompts: Vec<String> = split.prompts.iter().map(|prompt| prompt.trim().to_owned()).collect();
    check_prompts(&prompts)?;
    Ok(prompts)
}

/// The segment of each prompt in an answer to [`crate::question::pairing`]: `prompts` ascending indices below
/// `segments`.
///
/// # Errors
/// [`Refusal`] if it is not `{"segments": [...]}`, a prompt has no segment, or the indices are not ascending ones of
/// those that were given.
pub fn parse_match(text: &str, prompts: usize, segments: usize) -> Result<Vec<usize>, Refusal> {
    let answer: Match = object(text)?;
    if answer.segments.len() != prompts {
        return Err(Refusal::Indices { got: answer.segments.len(), prompts });
    }
    let mut picked: Vec<usize> = Vec::with_capacity(prompts);
    for (prompt, index) in answer.segments.into_iter().enumerate() {
        let index = index.ok_or(Refusal::Unmatched(prompt))?;
        let known = usize::try_from(index).ok().filter(|index| *index < segments);
        let next = known.ok_or(Refusal::Invented { index, segments })?;
        if let Some(&previous) = picked.last().filter(|previous| **previous >= next) {
            return Err(Refusal::Order { previous, next });
        }
        picked.push(next);
    }
    Ok(picked)
}

/// Whether these can be the prompts of an instruction.
pub(crate) fn check_prompts(prompts: &[String]) -> Result<(), Refusal> {
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        return Err(Refusal::Count(prompts.len()));
    }
    let is_bad = |prompt: &String| {
        prompt.trim().is_empty() || prompt.chars().count() > MAX_PROMPT_CHARS || prompt.chars().any(char::is_control)
    };
    prompts.iter().position(is_bad).map_or(Ok(()), |index| Err(Refusal::Prompt(index)))
}

/// The JSON object in a text: models put it between the marks of a code block, or say a word before it.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    let inside = text.find('{').zip(text.rfind('}')).filter(|(begin, end)| begin < end);
    let Some((begin, end)) = inside else {
        return Err(Refusal::Form("there is no JSON object".into()));
    };
    serde_json::from_str(&text[begin..=end]).map_err(|error| Refusal::Form(plain(&error.to_string(), 160)))
}

/// At most `limit` characters of a foreign text on one line.
pub(crate) fn plain(text: &str, limit: usize) -> String {
    let one_line = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut short: String = one_line.take(limit).collect();
    if text.chars().nth(limit).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_good_answer_is_read_plain_in_a_code_block_and_after_a_word() {
        for text in [
            r#"{"segments": [0, 2]}"#,
            "```json\n{\"segments\": [0, 2]}\n```",
            "Here you are:\n```\n{ \"segments\" : [ 0 , 2 ] }\n```\nDone.",
        ] {
            assert_eq!(parse_match(text, 2, 3).unwrap(), [0, 2]);
        }
        assert_eq!(
            parse_split(r#"{"prompts": [" push the plate ", "close it"]}"#).unwrap(),
            ["push the plate", "close it"]
        );
    }

    #[test]
    fn an_invented_index_is_refused() {
        for index in [3, 17, -1, i64::MAX, i64::MIN] {
            let error = parse_match(&format!("{{\"segments\": [0, {index}]}}"), 2, 3).unwrap_err();
            assert_eq!(error, Refusal::Invented { index, segments: 3 });
        }
        assert!(matches!(parse_match(r#"{"segments": [0, 99999999999999999999]}"#, 2, 3), Err(Refusal::Form(_))));
        assert!(matches!(parse_match(r#"{"segments": [0, 1.0]}"#, 2, 3), Err(Refusal::Form(_))));
    }

    #[test]
    fn indices_out_of_order_or_twice_are_refused() {
        assert_eq!(parse_match(r#"{"segments": [1, 0]}"#, 2, 3), Err(Refusal::Order { previous: 1, next: 0 }));
        assert_eq!(parse_match(r#"{"segments": [1, 1]}"#, 2, 3), Err(Refusal::Order { previous: 1, next: 1 }));
    }

    #[test]
    fn an_unmatched_prompt_and_a_wrong_number_of_indices_are_refused() {
        assert_eq!(parse_match(r#"{"segments": [0, null]}"#, 2, 3), Err(Refusal::Unmatched(1)));
        for got in [0, 1, 3, 4] {
            let text = format!("{{\"segments\": {:?}}}", (0..got).collect::<Vec<usize>>());
            assert_eq!(parse_match(&text, 2, 9), Err(Refusal::Indices { got, prompts: 2 }));
        }
    }

    #[test]
    fn frames_and_times_have_no_place() {
        for text in [
            r#"{"segments": [0], "frames": [12]}"#,
            r#"{"segments": [{"start": 0, "end": 10}]}"#,
            r#"{"start_s": 0.0}"#,
        ] {
            assert!(matches!(parse_match(text, 1, 3), Err(Refusal::Form(_))), "{text}");
        }
    }

    #[test]
    fn broken_json_is_refused() {
        for text in ["", "{", "}{", "[0, 1]", "{\"segments\": [0, 1", "{\"segments\": [0 1]}", "{} {}", "null"] {
            assert!(matches!(parse_match(text, 2, 3), Err(Refusal::Form(_))), "{text}");
            assert!(matches!(parse_split(text), Err(Refusal::Form(_))), "{text}");
        }
    }

    #[test]
    fn prompts_that_cannot_be_are_refused() {
        let long = format!("{{\"prompts\": [\"{}\"]}}", "x".repeat(MAX_PROMPT_CHARS + 1));
        let many = format!("{{\"prompts\": {:?}}}", vec!["a"; MAX_PROMPTS + 1]);
        assert_eq!(parse_split(&long), Err(Refusal::Prompt(0)));
        assert_eq!(parse_split(&many), Err(Refusal::Count(MAX_PROMPTS + 1)));
        assert_eq!(parse_split(r#"{"prompts": []}"#), Err(Refusal::Count(0)));
        assert_eq!(parse_split(r#"{"prompts": ["a", "  "]}"#), Err(Refusal::Prompt(1)));
        assert_eq!(parse_split(r#"{"prompts": ["a\u0007b"]}"#), Err(Refusal::Prompt(0)));
    }

    #[test]
    fn a_refusal_is_short_and_on_one_line() {
        let text = format!("{{\"{}\\u0007\": 1}}", "y\\n".repeat(5000));
        let words = parse_split(&text).unwrap_err().to_string();
        assert!(words.chars().count() < 300 && !words.contains(char::is_control), "{words}");
    }

    proptest! {
        #[test]
        fn what_is_accepted_obeys_every_rule(
            indices in prop::collection::vec(prop::option::weighted(0.95, -1_i64..6), 0..5),
            prompts in 0_usize..5, segments in 0_usize..6, before in "[^{}]{0,8}", after in "[^{}]{0,8}",
        ) {
            let list = serde_json::to_string(&indices).unwrap();
            let text = format!("{before}{{\"segments\": {list}}}{after}");
            let expected: Option<Vec<usize>> =
                indices.iter().map(|index| usize::try_from((*index)?).ok()).collect();
            let is_good = |picked: &Vec<usize>| {
                picked.len() == prompts
                    && picked.iter().all(|index| *index < segments)
                    && picked.windows(2).all(|pair| pair[0] < pair[1])
            };
            prop_assert_eq!(parse_match(&text, prompts, segments).ok(), expected.filter(is_good));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(\\PC|[{}\\[\\]\":,0-9]|segments|prompts|null){0,40}") {
            if let Ok(picked) = parse_match(&text, 2, 3) {
                prop_assert!(picked.len() == 2 && picked[0] < picked[1] && picked[1] < 3);
            }
            if let Ok(prompts) = parse_split(&text) {
                prop_assert!(check_prompts(&prompts).is_ok());
            }
        }
    }
}
