//! openpi's messages (`openpi/serving/websocket_policy_server.py`): the server's metadata, then an observation and its
//! actions in turn. Errors are text.

use std::time::Duration;

use crate::ServeError;
use crate::codec::{Dialect, NdArray, Value, decode, encode};
use crate::layout::{OPENPI_PROMPT, OPENPI_STATE};
use crate::observation::openpi as read_observation;
use crate::service::Service;

/// What a client is told before it asks: names of what the policy takes, actions per chunk and their width.
pub(crate) fn metadata(service: &Service) -> Result<Vec<u8>, ServeError> {
    let layout = &service.layout;
    let cameras = layout.cameras.iter().map(|camera| camera.openpi.as_str());
    let names = cameras.chain([OPENPI_STATE, OPENPI_PROMPT]).map(Value::text).collect();
    let mut out = Vec::new();
    let metadata = Value::map([
        ("server", Value::text("world2act")),
        ("environment", Value::text(&layout.name)),
        ("observation_keys", Value::List(names)),
        ("action_horizon", Value::Int(service.horizon as i64)),
        ("action_dim", Value::Int(layout.action_width() as i64)),
    ]);
    encode(&metadata, Dialect::Openpi, &mut out)?;
    Ok(out)
}

/// Answers an observation into `out`: `actions`, `(T, A)`, and how long they took.
///
/// # Errors
/// An observation that does not fit, or a policy that fails; the client is to get its words as text.
pub(crate) fn answer(service: &Service, session: u64, request: &[u8], out: &mut Vec<u8>) -> Result<(), ServeError> {
    let started = std::time::Instant::now();
    let request = decode(request, Dialect::Openpi)?;
    let asked = read_observation(&request, &service.layout)?;
    let chunk = service.act(session, vec![asked])?;
    let actions = NdArray::of_f32(vec![service.horizon, service.layout.action_width()], &chunk)?;
    let timing = |took: Duration| Value::map([("infer_ms", Value::Float(took.as_secs_f64() * 1e3))]);
    let reply = Value::map([("actions", Value::Array(actions)), ("server_timing", timing(started.elapsed()))]);
    out.clear();
    encode(&reply, Dialect::Openpi, out)?;
    Ok(())
}
