//! Answers on disk, so that none is paid for twice and a run that was ended goes on where it was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use w2a_data::Checksum;
use w2a_report::{WriteError, write_atomic};

use crate::question::Message;

/// What is sent, apart from address and key: the content that an answer belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Question {
    pub model: String,
    pub temperature: f32,
    pub messages: Vec<Message>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    question: Question,
    answer: String,
}

/// A folder with one file for each answer, named by the hash of its question.
#[derive(Debug)]
pub(crate) struct AnswerCache {
    dir: PathBuf,
}

impl AnswerCache {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The answer to this very question. A damaged file, or one that is about another question, is as none.
    pub fn get(&self, question: &Question) -> Option<String> {
        let bytes = fs_err::read(self.path(question)).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        (entry.question == *question).then_some(entry.answer)
    }

    /// Keeps an answer.
    pub fn put(&self, question: &Question, answer: &str) -> Result<(), WriteError> {
        let entry = Entry { question: question.clone(), answer: answer.to_owned() };
        // Strings and finite numbers only: this cannot fail.
        let text = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        write_atomic(self.path(question), &text)
    }

    fn path(&self, question: &Question) -> PathBuf {
        let mut hash = Checksum::new();
        hash.part(question.model.as_bytes());
        hash.part(&question.temperature.to_le_bytes());
        for message in &question.messages {
            hash.part(message.role.as_bytes());
            hash.part(message.content.as_bytes());
        }
        self.dir.join(format!("{}.json", hash.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str) -> Question {
        let messages = vec![Message { role: "user".into(), content: text.into() }];
        Question { model: "m".into(), temperature: 0.1, messages }
    }

    #[test]
    fn an_answer_comes_back_for_its_own_question_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = AnswerCache::new(&folder.path().join("answers"));
        assert_eq!(cache.get(&question("a")), None);
        cache.put(&question("a"), "{\"prompts\": [\"é\"]}").unwrap();
        assert_eq!(cache.get(&question("a")).unwrap(), "{\"prompts\": [\"é\"]}");
        assert_eq!(cache.get(&question("b")), None);
        assert_eq!(cache.get(&Question { model: "n".into(), ..question("a") }), None);
    }

    #[test]
    fn a_damaged_file_or_one_of_another_question_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = AnswerCache::new(folder.path());
        cache.put(&question("a"), "one").unwrap();
        fs_err::copy(cache.path(&question("a")), cache.path(&question("b"))).unwrap();
        assert_eq!(cache.get(&question("b")), None);
        fs_err::write(cache.path(&question("a")), "{\"question\":").unwrap();
        assert_eq!(cache.get(&question("a")), None);
    }
}
