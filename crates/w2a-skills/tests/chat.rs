//! The chat endpoint against a server that is good, slow, broken or lying.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Reply, Server};
use w2a_skills::answer::{Refusal, parse_match, parse_split};
use w2a_skills::question::Message;
use w2a_skills::{Chat, ChatCounts, ChatError, Config, LlmConfig, key_from_environment};

const KEY: &str = "sk-very-secret";

fn config(base_url: &str) -> LlmConfig {
    let off = Config::preset("tabletop").unwrap().llm;
    LlmConfig {
        enabled: true,
        base_url: base_url.into(),
        model: "a-model".into(),
        key_variable: "LLM_KEY".into(),
        timeout_s: 5.0,
        attempts: 3,
        backoff_s: 0.01,
        ..off
    }
}

fn chat(base_url: &str, cache: &Path) -> Chat {
    Chat::new(&config(base_url), Some(KEY.into()), cache).unwrap()
}

fn question(text: &str) -> Vec<Message> {
    vec![Message { role: "user".into(), content: text.into() }]
}

/// An answer, its refusal, or why there is neither.
type Answer = Result<Result<Vec<usize>, Refusal>, ChatError>;

/// What one question comes to: prompts 2, segments 3.
fn asked(replies: Vec<Reply>) -> (Answer, Server, ChatCounts) {
    let server = Server::start(replies);
    let folder = tempfile::tempdir().unwrap();
    let mut chat = chat(&server.base_url, folder.path());
    let answer = chat.ask(question("which?"), |text| parse_match(text, 2, 3));
    let kept = std::fs::read_dir(folder.path()).map_or(0, Iterator::count);
    assert_eq!(kept, usize::from(matches!(answer, Ok(Ok(_)))), "answers are kept if, and only if, they are accepted");
    (answer, server, chat.counts())
}

fn says(text: &str) -> Vec<Reply> {
    vec![Reply::Says(text.into())]
}

#[test]
fn a_good_answer_is_used_and_the_request_is_as_the_protocol_has_it() {
    let (answer, server, _) = asked(says(r#"{"segments": [0, 2]}"#));
    assert_eq!(answer.unwrap().unwrap(), [0, 2]);
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains(&format!("authorization: bearer {KEY}\r\n")), "{request}");
    let body: serde_json::Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["model"], "a-model");
    assert_eq!(body["messages"][0]["content"], "which?");
    assert_eq!(body["stream"], false);
}

#[test]
fn an_answer_is_paid_for_once_and_its_file_does_not_hold_the_key() {
    let server = Server::start(says(r#"{"prompts": ["open it"]}"#));
    let folder = tempfile::tempdir().unwrap();
    let mut first = chat(&server.base_url, folder.path());
    first.ask(question("a"), parse_split).unwrap().unwrap();
    first.ask(question("a"), parse_split).unwrap().unwrap();
    assert_eq!(first.counts(), ChatCounts { requests: 1, cached: 1 });
    let mut second = chat("http://127.0.0.1:9/v1", folder.path());
    assert_eq!(second.ask(question("a"), parse_split).unwrap().unwrap(), ["open it"]);
    assert_eq!(second.cached(question("b"), parse_split), None);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(text.contains("open it") && !text.contains("secret") && !text.contains("127.0.0.1"), "{text}");
    }
}

#[test]
fn an_invented_index_is_refused_and_not_kept() {
    let (answer, _, counts) = asked(says(r#"{"segments": [0, 3]}"#));
    assert_eq!(answer.unwrap(), Err(Refusal::Invented { index: 3, segments: 3 }));
    assert_eq!(counts.requests, 1);
}

#[test]
fn indices_out_of_order_are_refused() {
    let (answer, ..) = asked(says(r#"{"segments": [2, 0]}"#));
    assert_eq!(answer.unwrap(), Err(Refusal::Order { previous: 2, next: 0 }));
}

#[test]
fn broken_json_is_refused() {
    let (answer, ..) = asked(says(r#"{"segments": [0, "#));
    assert!(matches!(answer.unwrap(), Err(Refusal::Form(_))));
}

#[test]
fn json_in_a_code_block_is_read() {
    let (answer, ..) = asked(says("```json\n{\"segments\": [1, 2]}\n```"));
    assert_eq!(answer.unwrap().unwrap(), [1, 2]);
}

#[test]
fn more_indices_than_prompts_are_refused() {
    let (answer, ..) = asked(says(r#"{"segments": [0, 1, 2, 3]}"#));
    assert_eq!(answer.unwrap(), Err(Refusal::Indices { got: 4, prompts: 2 }));
}

#[test]
fn a_slow_server_is_given_up_after_all_attempts_and_says_that_answers_are_kept() {
    let server = Server::start(vec![Reply::Silence(Duration::from_millis(400))]);
    let folder = tempfile::tempdir().unwrap();
    let slow = LlmConfig { timeout_s: 0.05, attempts: 2, ..config(&server.base_url) };
    let mut chat = Chat::new(&slow, None, folder.path()).unwrap();
    let begin = Instant::now();
    let error = chat.ask(question("a"), parse_split).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(3), "the time-out is kept");
    assert!(matches!(error, ChatError::Gave { attempts: 2, .. }), "{error}");
    assert!(error.to_string().contains("timeout") && error.to_string().contains("kept"), "{error}");
    assert_eq!(chat.counts().requests, 2);
}

#[test]
fn what_passes_by_itself_is_tried_again() {
    for bad in [
        Reply::Raw(500, "", "oops".into()),
        Reply::Raw(429, "retry-after: 0\r\n", String::new()),
        Reply::Raw(503, "retry-after: soon\r\n", String::new()),
        Reply::HangsUp,
    ] {
        let (answer, _, counts) = asked(vec![bad, Reply::Says(r#"{"segments": [0, 1]}"#.into())]);
        assert_eq!(answer.unwrap().unwrap(), [0, 1]);
        assert_eq!(counts.requests, 2);
    }
}

#[test]
fn waits_grow_and_the_servers_wish_counts() {
    let server = Server::start(vec![Reply::Raw(503, "", String::new())]);
    let folder = tempfile::tempdir().unwrap();
    let patient = LlmConfig { backoff_s: 0.05, ..config(&server.base_url) };
    let begin = Instant::now();
    let mut chat = Chat::new(&patient, None, folder.path()).unwrap();
    assert!(chat.ask(question("a"), parse_split).is_err());
    assert!(begin.elapsed() >= Duration::from_millis(150), "0.05 s, then 0.1 s");
    let server = Server::start(vec![Reply::Raw(429, "retry-after: 1\r\n", String::new()), Reply::HangsUp]);
    let hasty = LlmConfig { attempts: 2, ..config(&server.base_url) };
    let begin = Instant::now();
    assert!(Chat::new(&hasty, None, folder.path()).unwrap().ask(question("a"), parse_split).is_err());
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_wrong_key_ends_the_run_names_the_variable_and_never_the_key() {
    for status in [401, 403] {
        let (answer, _, counts) = asked(vec![Reply::Raw(status, "", format!("bad key {KEY}"))]);
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("LLM_KEY") && error.contains(&status.to_string()), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(counts.requests, 1, "a wrong key does not become right");
    }
}

#[test]
fn a_server_that_repeats_the_key_does_not_put_it_into_messages() {
    for status in [400, 500] {
        let (answer, ..) = asked(vec![Reply::Raw(status, "", format!("header was 'Bearer {KEY}'"))]);
        let error = answer.unwrap_err();
        for words in [error.to_string(), format!("{error:?}")] {
            assert!(words.contains("[key]") && !words.contains("secret"), "{words}");
        }
    }
}

#[test]
fn a_request_that_the_server_does_not_understand_is_not_repeated() {
    let (answer, _, counts) = asked(vec![Reply::Raw(404, "", "no such\nmodel".into())]);
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("no such model") && error.contains("base_url"), "{error}");
    assert_eq!(counts.requests, 1);
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Server::start(says(r#"{"segments": [0, 1]}"#));
    let headers: &'static str =
        Box::leak(format!("location: {}/chat/completions\r\n", other.base_url).into_boxed_str());
    let (answer, ..) = asked(vec![Reply::Raw(307, headers, String::new())]);
    assert!(matches!(answer, Err(ChatError::Refused { status: 307, .. })), "{answer:?}");
    assert!(other.requests().is_empty(), "the key must not travel on");
}

#[test]
fn a_huge_answer_is_not_read_to_its_end() {
    let (answer, ..) = asked(vec![Reply::Raw(200, "", "x".repeat(1 << 20))]);
    let error = answer.unwrap_err();
    assert!(matches!(error, ChatError::TooLarge { limit_kib: 64 }), "{error}");
}

#[test]
fn something_other_than_a_chat_completion_is_said_to_be() {
    for body in
        ["<html>welcome</html>", "{}", "{\"choices\": []}", "", "{\"choices\": [{\"message\": {\"content\": 3}}]}"]
    {
        let (answer, ..) = asked(vec![Reply::Raw(200, "", body.into())]);
        assert!(matches!(answer, Err(ChatError::Protocol { .. })), "{body}: {answer:?}");
    }
    let (silent, ..) = asked(vec![Reply::Raw(200, "", "{\"choices\": [{\"message\": {\"content\": null}}]}".into())]);
    assert!(matches!(silent.unwrap(), Err(Refusal::Form(_))));
}

#[test]
fn a_server_that_is_not_there_is_tried_again_and_then_given_up() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = chat(&format!("http://{closed}/v1"), folder.path()).ask(question("a"), parse_split).unwrap_err();
    assert!(matches!(error, ChatError::Gave { attempts: 3, .. }), "{error}");
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    let config = LlmConfig { key_variable: "W2A_NO_SUCH_VARIABLE".into(), ..config("http://localhost/v1") };
    let error = key_from_environment(&config).unwrap_err().to_string();
    assert!(error.contains("W2A_NO_SUCH_VARIABLE") && error.contains("not set"), "{error}");
    assert_eq!(key_from_environment(&LlmConfig { key_variable: String::new(), ..config }).unwrap(), None);
}
