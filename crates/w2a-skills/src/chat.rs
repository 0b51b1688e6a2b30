//! An OpenAI-compatible chat endpoint, `POST <base URL>/chat/completions`.
//!
//! What can pass by itself is tried again (no connection, a time-out, HTTP 408, 429 and 5xx); what cannot ends the run,
//! and the answers so far stay. Redirects are not followed, so that the key goes to the configured host only.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};
use w2a_report::WriteError;

use crate::answer::{Refusal, plain};
use crate::cache::{AnswerCache, Question};
use crate::config::LlmConfig;
use crate::error::SkillsError;
use crate::question::Message;
use crate::validate::{endpoint, is_this_machine};

/// The longest wait before a retry, seconds, whatever a server asks for.
const MAX_WAIT_S: f64 = 120.0;

/// Why a question has no answer. None of these messages holds the key.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The environment variable is not set.
    #[error(
        "the environment variable {variable} is not set; put the key of the language model there, or \
         clear skills.llm.key_variable if the server needs none"
    )]
    NoKey {
        /// Its name.
        variable: String,
    },
    /// The server does not accept the key.
    #[error(
        "the language model's server refused the key (HTTP {status}); check the environment variable \
         {variable} and that skills.llm.base_url is the server it belongs to"
    )]
    Key {
        /// HTTP status, 401 or 403.
        status: u16,
        /// The variable's name.
        variable: String,
    },
    /// The server does not understand the request.
    #[error(
        "the language model's server answered HTTP {status}: {excerpt:?}; check skills.llm.base_url \
         (without /chat/completions) and skills.llm.model"
    )]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of what it said.
        excerpt: String,
    },
    /// Nothing came of any attempt.
    #[error(
        "the language model did not answer in {attempts} attempts, the last time because of {reason}; \
         the answers so far are kept: run the same command again"
    )]
    Gave {
        /// How many were made.
        attempts: u32,
        /// What the last one came to.
        reason: String,
    },
    /// The connection cannot work.
    #[error("the language model cannot be reached: {reason}; check skills.llm.base_url")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// Something other than a chat completion.
    #[error("the language model's server did not answer with a chat completion: {reason}; check skills.llm.base_url")]
    Protocol {
        /// What is wrong.
        reason: String,
    },
    /// An answer beyond the limit.
    #[error(
        "the language model's answer is larger than skills.llm.max_answer_kib = {limit_kib}; \
         raise it if such answers are expected"
    )]
    TooLarge {
        /// The limit, KiB.
        limit_kib: u64,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] WriteError),
}

impl ChatError {
    /// Whether the user can mend it.
    pub fn is_users_mistake(&self) -> bool {
        !matches!(self, Self::Cache(_))
    }
}

/// How the answers were come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChatCounts {
    /// Requests sent, retries included.
    pub requests: usize,
    /// Answers taken from the cache.
    pub cached: usize,
}

/// A chat endpoint with its cache.
pub struct Chat {
    agent: Agent,
    uri: Uri,
    config: LlmConfig,
    /// Sent in one header and nothing else; there is no `Debug` of this type that could print it.
    key: Option<String>,
    cache: AnswerCache,
    counts: ChatCounts,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

/// What one attempt came to.
enum Attempt {
    Answered(String),
    Passing { reason: String, wait_s: Option<f64> },
}

/// The key that `config` names, from the environment; `None` if it names none.
///
/// # Errors
/// [`ChatError::NoKey`] if the variable is not set, or empty, or no text.
pub fn key_from_environment(config: &LlmConfig) -> Result<Option<String>, ChatError> {
    let variable = &config.key_variable;
    if variable.is_empty() {
        return Ok(None);
    }
    let key = std::env::var(variable).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    key.map(Some).ok_or_else(|| ChatError::NoKey { variable: variable.clone() })
}

impl Chat {
    /// A chat with the endpoint of `config`; answers are kept in the folder `cache`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SkillsError::Config`] for settings that cannot be.
    pub fn new(config: &LlmConfig, key: Option<String>, cache: &Path) -> Result<Self, SkillsError> {
        config.validate()?;
        let uri = endpoint(&config.base_url)?;
        let mut builder = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(config.timeout_s)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("world2act/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(&uri) {
            // A proxy of the environment would look for the server on its own machine.
            builder = builder.proxy(None);
        }
        let agent = builder.build().into();
        let cache = AnswerCache::new(cache);
        Ok(Self { agent, uri, config: config.clone(), key, cache, counts: ChatCounts::default() })
    }

    /// How the answers so far were come by.
    pub fn counts(&self) -> ChatCounts {
        self.counts
    }

    /// The question as the cache knows it.
    fn question(&self, messages: Vec<Message>) -> Question {
        Question { model: self.config.model.clone(), temperature: self.config.temperature, messages }
    }

    /// The accepted answer to `messages` that the cache holds, if any; nothing is sent.
    pub fn cached<T>(&self, messages: Vec<Message>, accept: impl Fn(&str) -> Result<T, Refusal>) -> Option<T> {
        self.cache.get(&self.question(messages)).and_then(|answer| accept(&answer).ok())
    }

    /// Asks, unless the cache has the answer. An answer is kept if `accept` takes it; a refused one is asked for again
    /// by the next run, not by this one.
    ///
    /// # Errors
    /// [`ChatError`] if there is no answer at all. An answer that breaks a rule is an `Ok(Err(_))`: it costs one
    /// demonstration or one instruction, not the run.
    pub fn ask<T>(
        &mut self,
        messages: Vec<Message>,
        accept: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, ChatError> {
        let question = self.question(messages);
        if let Some(taken) = self.cache.get(&question).and_then(|answer| accept(&answer).ok()) {
            self.counts.cached += 1;
            return Ok(Ok(taken));
        }
        let answer = self.send(&question)?;
        let accepted = accept(&answer);
        if accepted.is_ok() {
            self.cache.put(&question, &answer)?;
        }
        Ok(accepted)
    }

    fn send(&mut self, question: &Question) -> Result<String, ChatError> {
        let body = serde_json::json!({
            "model": question.model,
            "messages": question.messages,
            "temperature": question.temperature,
            "stream": false,
        });
        let body = body.to_string();
        let mut wait_s = self.config.backoff_s;
        let mut last = String::new();
        for attempt in 1..=self.config.attempts {
            self.counts.requests += 1;
            match self.attempt(&body)? {
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::Passing { reason, wait_s: asked_s } => {
                    last = reason;
                    if attempt < self.config.attempts {
                        let wait_s = asked_s.unwrap_or(0.0).max(wait_s).clamp(0.0, MAX_WAIT_S);
                        std::thread::sleep(Duration::from_secs_f64(wait_s));
                    }
                    wait_s *= 2.0;
                }
            }
        }
        Err(ChatError::Gave { attempts: self.config.attempts, reason: last })
    }

    fn attempt(&self, body: &str) -> Result<Attempt, ChatError> {
        let mut request = self.agent.post(&self.uri).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return self.failed(&error),
        };
        let status = response.status().as_u16();
        let wait_s = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = match self.read(response) {
            Ok(text) => text,
            Err(error) => return self.failed(&error),
        };
        match status {
            200..300 => completion(&text).map(Attempt::Answered),
            401 | 403 => Err(ChatError::Key { status, variable: self.key_name() }),
            408 | 429 | 500.. => {
                Ok(Attempt::Passing { reason: format!("HTTP {status}: {:?}", self.excerpt(&text)), wait_s })
            }
            _ => Err(ChatError::Refused { status, excerpt: self.excerpt(&text) }),
        }
    }

    fn read(&self, mut response: Response<Body>) -> Result<String, ureq::Error> {
        let limit = self.config.max_answer_kib.saturating_mul(1024);
        let bytes = response.body_mut().with_config().limit(limit).read_to_vec()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn failed(&self, error: &ureq::Error) -> Result<Attempt, ChatError> {
        let reason = self.excerpt(&error.to_string());
        match error {
            ureq::Error::BodyExceedsLimit(_) => Err(ChatError::TooLarge { limit_kib: self.config.max_answer_kib }),
            ureq::Error::Timeout(_)
            | ureq::Error::Io(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound => Ok(Attempt::Passing { reason, wait_s: None }),
            _ => Err(ChatError::Unreachable { reason }),
        }
    }

    fn key_name(&self) -> String {
        let name = &self.config.key_variable;
        if name.is_empty() { "that skills.llm.key_variable is to name".into() } else { name.clone() }
    }

    /// The beginning of a foreign text, without the key if it repeats it.
    fn excerpt(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        };
        plain(text.trim(), 200)
    }
}

/// The text of the first choice of a chat completion.
fn completion(body: &str) -> Result<String, ChatError> {
    let wrong = |reason: String| ChatError::Protocol { reason };
    let completion: Completion = serde_json::from_str(body).map_err(|error| wrong(plain(&error.to_string(), 160)))?;
    let choice = completion.choices.into_iter().next().ok_or_else(|| wrong("it has no choice".into()))?;
    Ok(choice.message.content.unwrap_or_default())
}
