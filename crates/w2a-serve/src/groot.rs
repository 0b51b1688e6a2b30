//! GR00T's requests and answers (`gr00t/policy/server_client.py`): one msgpack value a message.

use crate::ServeError;
use crate::codec::{Dialect, NdArray, Value, decode, encode};
use crate::layout::Layout;
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
pub(crate) fn answer(service: &Service, session: u64, request: &[u8], out: &mut Vec<u8>) -> Answered {
    let mut endpoint = "other";
    let done = decode(request, Dialect::Groot)
        .map_err(ServeError::from)
        .and_then(|request| handle(service, session, &request, &mut endpoint))
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
    request: &Value,
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
        None => "get_action",
        Some(Value::Text(endpoint)) => endpoint,
        Some(other) => return Err(ServeError::message("endpoint", "text", other.describe())),
    };
    let data = request.get("data").unwrap_or(&Value::Nil);
    let text = |text: &'static str| Value::text(text);
    match endpoint {
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
            service.engine.reset(session)?;
            Ok(Value::map([]))
        }
        "get_modality_config" => {
            *named = "get_modality_config";
            Ok(modality_config(&service.layout, service.horizon))
        }
        "get_action" => {
            *named = "get_action";
            check_options(data)?;
            let observation = data
                .get("observation")
                .ok_or_else(|| ServeError::message("data of get_action", "a map with observation", data.describe()))?;
            let (naming, asked) = read_observation(observation, &service.layout)?;
            let rows = asked.len();
            let chunks = service.engine.act(session, asked)?;
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

/// What `get_modality_config` answers.
fn modality_config(layout: &Layout, horizon: usize) -> Value<'static> {
    let names = |names: &mut dyn Iterator<Item = &String>| -> Vec<Value<'static>> {
        names.map(|name| Value::Text(name.clone().into())).collect()
    };
    let config = |steps: usize, names: Vec<Value<'static>>, actions: Value<'static>| {
        let steps = (0..steps).map(|step| Value::Int(step as i64)).collect();
        let inside = Value::map([
            ("delta_indices", Value::List(steps)),
            ("modality_keys", Value::List(names)),
            ("sin_cos_embedding_keys", Value::Nil),
            ("mean_std_embedding_keys", Value::Nil),
            ("action_configs", actions),
        ]);
        Value::map([("__ModalityConfig_class__", Value::Bool(true)), ("as_json", inside)])
    };
    // Actions are handed over in the environment's own units.
    let absolute = || {
        Value::map([
            ("rep", Value::text("ABSOLUTE")),
            ("type", Value::text("NON_EEF")),
            ("format", Value::text("DEFAULT")),
            ("state_key", Value::Nil),
        ])
    };
    let actions = layout.action.iter().map(|_| absolute()).collect();
    let language = vec![Value::text(layout.language)];
    Value::map([
        ("video", config(1, names(&mut layout.cameras.iter().map(|camera| &camera.name)), Value::Nil)),
        ("state", config(1, names(&mut layout.state.iter().map(|part| &part.name)), Value::Nil)),
        ("action", config(horizon, names(&mut layout.action.iter().map(|part| &part.name)), Value::List(actions))),
        ("language", config(1, language, Value::Nil)),
    ])
}
