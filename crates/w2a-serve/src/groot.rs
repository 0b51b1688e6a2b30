//! GR00T's requests and answers (`gr00t/policy/server_client.py`): one msgpack value a message.

use w2a_policy::groot::Modalities;
use w2a_policy::groot::modality::{ActionConfig, ActionFormat, ActionKind, ModalityConfig, Representation};

use crate::ServeError;
use crate::codec::{Dialect, NdArray, Parted, Value, decode_parted, encode};
use crate::layout::{Layout, Part};
use crate::observation::{Naming, groot as read_observation};
use crate::service::Service;

/// Answers where the client's version knows no msgpack error.
pub(crate) const LEGACY_ERROR: &[u8] = b"ERROR";
pub(crate) const ERROR: &str = "error";

/// What came of a request.
pub(crate) struct Answered {
    /// What was asked for, as the metrics name it.
    pub endpoint: &'static str,
    /// Whether it was done.
    pub ok: bool,
    /// Whether the server is to stop.
    pub stop: bool,
}

/// Answers a request into `out`. Whatever is wrong with it becomes the map that GR00T's client raises as an error.
pub(crate) fn answer(service: &Service, session: u64, request: &mut Parted, out: &mut Vec<u8>) -> Answered {
    let mut endpoint = "other";
    let done = decode_parted(request, Dialect::Groot)
        .map_err(ServeError::from)
        .and_then(|mut request| handle(service, session, &mut request, &mut endpoint))
        .and_then(|reply| {
            out.clear();
            Ok(encode(&reply, Dialect::Groot, out)?)
        });
    let ok = done.is_ok();
    if let Err(error) = done {
        out.clear();
        let error = Value::map([(ERROR, Value::Text(error.to_string().into()))]);
        if encode(&error, Dialect::Groot, out).is_err() {
            out.clear();
            out.extend_from_slice(LEGACY_ERROR);
        }
    }
    Answered { endpoint, ok, stop: ok && endpoint == "kill" }
}

fn handle(
    service: &Service,
    session: u64,
    request: &mut Value,
    named: &mut &'static str,
) -> Result<Value<'static>, ServeError> {
    let Value::Map(_) = request else {
        return Err(ServeError::message("request", "a map with endpoint and data", request.describe()));
    };
    if !service.admits(request.get("api_token").and_then(Value::as_text)) {
        return Err(ServeError::Refused("Unauthorized: Invalid API token"));
    }
    let endpoint = match request.get("endpoint") {
        // GR00T's server assumes this one.
        None => "get_action".to_owned(),
        Some(Value::Text(endpoint)) => endpoint.to_string(),
        Some(other) => return Err(ServeError::message("endpoint", "text", other.describe())),
    };
    let nothing = &mut Value::Nil;
    let data = request.get_mut("data").unwrap_or(nothing);
    let text = |text: &'static str| Value::text(text);
    match endpoint.as_str() {
        "ping" => {
            *named = "ping";
            Ok(Value::map([("status", text("ok")), ("message", text("Server is running"))]))
        }
        "kill" => {
            *named = "kill";
            if !service.has_token() {
                let how = "a server with a token: start it with --token-env NAME";
                return Err(ServeError::message("kill", how, "one without"));
            }
            Ok(Value::Nil)
        }
        "reset" => {
            *named = "reset";
            check_options(data)?;
            service.reset(session)?;
            Ok(Value::map([]))
        }
        "get_modality_config" => {
            *named = "get_modality_config";
            Ok(modality_config(&service.layout, service.horizon))
        }
        "get_action" => {
            *named = "get_action";
            check_options(data)?;
            let got = data.describe();
            let observation = data
                .get_mut("observation")
                .ok_or_else(|| ServeError::message("data of get_action", "a map with observation", got))?;
            let (naming, asked) = read_observation(observation, &service.layout)?;
            let rows = asked.len();
            let chunks = service.act(session, asked)?;
            action(&service.layout, naming, rows, service.horizon, &chunks)
        }
        other => {
            let other: String = other.chars().take(80).collect();
            Err(ServeError::UnknownEndpoint(other))
        }
    }
}

fn check_options(data: &Value) -> Result<(), ServeError> {
    match data.get("options") {
        None | Some(Value::Nil | Value::Map(_)) => Ok(()),
        Some(other) => Err(ServeError::message("options", "nil or a map", other.describe())),
    }
}

/// `[action, info]`: every part of the action as `f32 (B, T, D)` under its name.
fn action(
    layout: &Layout,
    naming: Naming,
    rows: usize,
    horizon: usize,
    chunks: &[f32],
) -> Result<Value<'static>, ServeError> {
    let width = layout.action_width();
    let mut start = 0;
    let mut parts = Vec::new();
    for part in &layout.action {
        let steps = chunks.chunks_exact(width);
        let values: Vec<f32> = steps.flat_map(|step| step.iter().skip(start).take(part.width)).copied().collect();
        start += part.width;
        let array = NdArray::of_f32(vec![rows, horizon, part.width], &values)?;
        let name = match naming {
            Naming::Nested => part.name.clone(),
            Naming::Flat => format!("action.{}", part.name),
        };
        parts.push((name.into(), Value::Array(array)));
    }
    Ok(Value::List(vec![Value::Map(parts), Value::map([])]))
}

/// What `get_modality_config` answers: what the checkpoint says of itself, or what a layout comes to. Actions are handed
/// over in the environment's own units either way.
fn modality_config(layout: &Layout, horizon: usize) -> Value<'static> {
    let plain = |steps: usize, names: Vec<String>| ModalityConfig {
        delta_indices: (0..steps as i64).collect(),
        modality_keys: names,
        sin_cos_embedding_keys: None,
        mean_std_embedding_keys: None,
        action_configs: None,
    };
    let absolute = || ActionConfig {
        rep: Representation::Absolute,
        kind: ActionKind::Joints,
        format: ActionFormat::Default,
        state_key: None,
    };
    let names = |parts: &[Part]| parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>();
    let of_layout = || Modalities {
        video: plain(1, layout.cameras.iter().map(|camera| camera.name.clone()).collect()),
        state: plain(1, names(&layout.state)),
        action: ModalityConfig {
            action_configs: Some(layout.action.iter().map(|_| absolute()).collect()),
            ..plain(horizon, names(&layout.action))
        },
        language: plain(1, vec![layout.language.clone()]),
    };
    let Modalities { video, state, action, language } = layout.modalities.clone().unwrap_or_else(of_layout);
    Value::map([
        ("video", described(video)),
        ("state", described(state)),
        ("action", described(action)),
        ("language", described(language)),
    ])
}

/// GR00T's `ModalityConfig`, its keys in the order of its class.
fn described(config: ModalityConfig) -> Value<'static> {
    let texts = |texts: Vec<String>| Value::List(texts.into_iter().map(|text| Value::Text(text.into())).collect());
    let maybe = |names: Option<Vec<String>>| names.map_or(Value::Nil, texts);
    let action = |action: ActionConfig| {
        Value::map([
            ("rep", name(&action.rep)),
            ("type", name(&action.kind)),
            ("format", name(&action.format)),
            ("state_key", action.state_key.map_or(Value::Nil, |key| Value::Text(key.into()))),
        ])
    };
    let actions = config.action_configs;
    let inside = Value::map([
        ("delta_indices", Value::List(config.delta_indices.into_iter().map(Value::Int).collect())),
        ("modality_keys", texts(config.modality_keys)),
        ("sin_cos_embedding_keys", maybe(config.sin_cos_embedding_keys)),
        ("mean_std_embedding_keys", maybe(config.mean_std_embedding_keys)),
        ("action_configs", actions.map_or(Value::Nil, |all| Value::List(all.into_iter().map(action).collect()))),
    ]);
    Value::map([("__ModalityConfig_class__", Value::Bool(true)), ("as_json", inside)])
}

/// The name of an enum's value, as checkpoints and the wire have it.
fn name(value: &impl serde::Serialize) -> Value<'static> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Value::Text(name.into()),
        _ => Value::Nil,
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, ModalityConfig, Value, described, encode};
    use crate::codec::decode;

    #[test]
    fn a_modality_config_has_the_bytes_of_the_golden_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/wire/get_modality_config_reply.bin");
        let golden = fs_err::read(path).unwrap();
        let index = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/wire/frames.json");
        let index: serde_json::Value = serde_json::from_slice(&fs_err::read(index).unwrap()).unwrap();
        let frame = index.as_array().unwrap().iter().find(|frame| frame["file"] == "get_modality_config_reply.bin");
        let content = &frame.unwrap()["content"];
        let config = |group: &'static str| {
            let config: ModalityConfig = serde_json::from_value(content[group]["ModalityConfig"].clone()).unwrap();
            (group, described(config))
        };
        let mut bytes = Vec::new();
        let ours = Value::map(["video", "state", "action", "language"].map(config));
        encode(&ours, Dialect::Groot, &mut bytes).unwrap();
        assert_eq!(bytes, golden);
        assert_eq!(decode(&bytes, Dialect::Groot).unwrap(), ours);
    }
}
