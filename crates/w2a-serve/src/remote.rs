//! A policy that is a server somewhere else.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use w2a_data::{Camera, Observation};
use w2a_nn::NnError;
use w2a_policy::Policy;

use crate::ServeError;
use crate::client::Client;
use crate::codec::{NdArray, Value};
use crate::layout::{Layout, OPENPI_PROMPT, OPENPI_STATE};
use crate::service::Protocol;

/// Longer chunks than any policy in use; a wrong answer would only fill the memory.
const MAX_HORIZON: usize = 4096;
/// Side of the image that is asked about where the layout takes any.
const PROBE_SIDE: usize = 224;

/// Where a policy server is: `groot://host:port` or `openpi://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its machine.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colons = self.host.contains(':');
        let (open, close) = if colons { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.protocol.name(), self.host, self.port)
    }
}

impl FromStr for Url {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Self, ServeError> {
        let parse = || {
            let (scheme, rest) = text.split_once("://")?;
            let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.name() == scheme)?;
            let (host, port) = rest.rsplit_once(':')?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = bare.unwrap_or(host);
            // Only an address in brackets has colons of its own.
            let plain = !host.is_empty() && !host.contains(['/', '@', ' ']) && (bare.is_some() || !host.contains(':'));
            let port = port.parse().ok().filter(|port| *port != 0)?;
            plain.then(|| Self { protocol, host: host.to_owned(), port })
        };
        parse().ok_or_else(|| ServeError::Address { text: text.chars().take(80).collect() })
    }
}

/// How long to wait for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one answer, or for a part of it.
    pub answer: Duration,
    /// For a server that is gone or does not answer, over all attempts, before the work is given up.
    pub total: Duration,
}

impl Default for Patience {
    /// A minute for an answer, since models compile on their first one, and two in all.
    fn default() -> Self {
        Self { answer: Duration::from_secs(60), total: Duration::from_secs(120) }
    }
}

/// A policy server as a policy.
///
/// A connection that breaks is made again and the question is asked again, so that an episode survives a server that is
/// started anew.
pub struct RemotePolicy {
    client: Client,
    layout: Layout,
    horizon: usize,
    needs_reset: bool,
}

impl RemotePolicy {
    /// Finds out how long the server's chunks are, and checks that it takes and gives what `layout` says. A GR00T server
    /// is asked for its modality configuration; an openpi server, which has none, for the actions in the dark.
    ///
    /// # Errors
    /// A server that is gone, refuses, or is another policy's.
    pub fn connect(url: Url, layout: Layout, token: Option<String>, patience: Patience) -> Result<Self, ServeError> {
        let protocol = url.protocol;
        let mut remote = Self { client: Client::new(url, token, patience), layout, horizon: 0, needs_reset: false };
        remote.horizon = match protocol {
            Protocol::Groot => remote.groot_horizon()?,
            Protocol::Openpi => {
                let dark = dark(&remote.layout);
                remote.openpi(&dark, "")?.len() / remote.layout.action_width().max(1)
            }
        };
        Ok(remote)
    }

    /// Names are compared, not their order: on the wire every part has its name. What the instruction is called differs
    /// between data sets of one robot, so that the server's name of it is taken.
    fn groot_horizon(&mut self) -> Result<usize, ServeError> {
        let layout = self.layout.clone();
        let config = self.client.groot("get_modality_config", None)?;
        let part = |group: &str, key: &str| {
            let list = config.get(group).and_then(|config| config.get("as_json")).and_then(|json| json.get(key));
            match list {
                Some(Value::List(entries)) => Ok(entries),
                _ => Err(ServeError::message("modality configuration", format!("{key} of {group}"), "none")),
            }
        };
        let expected: [(&str, Vec<&str>); 3] = [
            ("video", layout.cameras.iter().map(|camera| camera.name.as_str()).collect()),
            ("state", layout.state.iter().map(|part| part.name.as_str()).collect()),
            ("action", layout.action.iter().map(|part| part.name.as_str()).collect()),
        ];
        let sorted = |names: &[&str]| {
            let mut sorted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            sorted.sort_unstable();
            sorted
        };
        for (group, names) in expected {
            let theirs: Vec<&str> = part(group, "modality_keys")?.iter().filter_map(Value::as_text).collect();
            if sorted(&theirs) != sorted(&names) {
                let what = format!("{group} keys of the server");
                return Err(ServeError::message(what, names.join(", "), theirs.join(", ")));
            }
            if group != "action" && part(group, "delta_indices")?.len() != 1 {
                return Err(ServeError::message(format!("{group} steps of the server"), "one, the present", "more"));
            }
        }
        let words: Vec<&str> = part("language", "modality_keys")?.iter().filter_map(Value::as_text).collect();
        let &[words] = words.as_slice() else {
            return Err(ServeError::message("language keys of the server", "one", words.join(", ")));
        };
        self.layout.language = words.to_owned();
        let horizon = part("action", "delta_indices")?.len();
        check_horizon(horizon)?;
        Ok(horizon)
    }

    fn groot(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, ServeError> {
        let rows = observations.len();
        let mut video = Vec::new();
        for (place, camera) in self.layout.cameras.iter().enumerate() {
            let images: Vec<&Camera> = observations.iter().filter_map(|seen| seen.cameras.get(place)).collect();
            let size = images.first().map_or((0, 0), |image| (image.height, image.width));
            if images.len() != rows || images.iter().any(|image| (image.height, image.width) != size) {
                let got = format!("{} images, or of several sizes", images.len());
                return Err(ServeError::message(camera.name.as_str(), format!("{rows} images of one size"), got));
            }
            let pixels: Cow<[u8]> = match images.as_slice() {
                [one] => Cow::Borrowed(&one.rgb),
                several => Cow::Owned(several.iter().map(|image| image.rgb.as_slice()).collect::<Vec<_>>().concat()),
            };
            let array = NdArray::of_u8(vec![rows, 1, size.0, size.1, 3], pixels)?;
            video.push((camera.name.as_str(), Value::Array(array)));
        }
        check_state(&self.layout, observations)?;
        let mut state = Vec::new();
        let mut start = 0;
        for part in &self.layout.state {
            let rows_of = observations.iter().flat_map(|seen| seen.proprio.iter().skip(start).take(part.width));
            let array = NdArray::of_f32(vec![rows, 1, part.width], &rows_of.copied().collect::<Vec<f32>>())?;
            start += part.width;
            state.push((part.name.as_str(), Value::Array(array)));
        }
        let words = instructions.iter().map(|words| Value::List(vec![Value::text(words)])).collect();
        let language = Value::map([(self.layout.language.as_str(), Value::List(words))]);
        let observation =
            Value::map([("video", Value::map(video)), ("state", Value::map(state)), ("language", language)]);
        let data = Value::map([("observation", observation), ("options", Value::Nil)]);
        let answer = self.client.groot("get_action", Some(data))?;
        let actions = match &answer {
            Value::List(pair) => pair.first(),
            _ => None,
        };
        let actions =
            actions.ok_or_else(|| ServeError::message("answer to get_action", "[actions, info]", answer.describe()))?;
        let width = self.layout.action_width();
        let mut out = vec![0.0; rows * self.horizon * width];
        let mut start = 0;
        for part in &self.layout.action {
            let shape = [rows, self.horizon, part.width];
            let values = numbers(actions, &part.name, &shape)?;
            let steps = out.chunks_exact_mut(width).zip(values.chunks_exact(part.width.max(1)));
            for (step, values) in steps {
                step.iter_mut().skip(start).zip(values).for_each(|(entry, value)| *entry = *value);
            }
            start += part.width;
        }
        Ok(out)
    }

    fn openpi(&mut self, observation: &Observation, instruction: &str) -> Result<Vec<f32>, ServeError> {
        check_state(&self.layout, std::slice::from_ref(observation))?;
        let mut entries = Vec::new();
        for (place, camera) in self.layout.cameras.iter().enumerate() {
            let image = observation.cameras.get(place).ok_or_else(|| {
                ServeError::message(camera.name.as_str(), "an image", format!("{} images", observation.cameras.len()))
            })?;
            let array = NdArray::of_u8(vec![image.height, image.width, 3], image.rgb.as_slice())?;
            entries.push((camera.openpi.as_str(), Value::Array(array)));
        }
        let state = NdArray::of_f32(vec![observation.proprio.len()], &observation.proprio)?;
        entries.push((OPENPI_STATE, Value::Array(state)));
        entries.push((OPENPI_PROMPT, Value::text(instruction)));
        let request = Value::map(entries);
        let width = self.layout.action_width();
        let known = self.horizon;
        let answer = self.client.openpi(&request)?;
        let horizon = match answer.get("actions") {
            // The first answer is what says how long chunks are.
            Some(Value::Array(array)) if known == 0 => array.shape().first().copied().unwrap_or(0),
            _ => known,
        };
        check_horizon(horizon)?;
        numbers(&answer, "actions", &[horizon, width])
    }
}

impl Policy for RemotePolicy {
    fn horizon(&self) -> usize {
        self.horizon
    }

    fn action_dim(&self) -> usize {
        self.layout.action_width()
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        let failed = |client: &Client, error: ServeError| NnError::Input {
            what: format!("policy server {}", client.url()),
            expected: "actions".into(),
            got: error.to_string(),
        };
        if observations.len() != instructions.len() {
            let (expected, got) = (observations.len().to_string(), instructions.len().to_string());
            return Err(NnError::Input { what: "instructions of a policy call".into(), expected, got });
        }
        if observations.is_empty() {
            return Ok(Vec::new());
        }
        let result = match self.client.url().protocol {
            Protocol::Groot => self.forget().and_then(|()| self.groot(observations, instructions)),
            Protocol::Openpi => self.forget().and_then(|()| {
                let rows = observations.iter().zip(instructions);
                let rows: Result<Vec<_>, _> = rows.map(|(seen, words)| self.openpi(seen, words)).collect();
                Ok(rows?.concat())
            }),
        };
        result.map_err(|error| failed(&self.client, error))
    }

    /// The server is told with the next question: this cannot fail, and a server may.
    fn reset(&mut self) {
        self.needs_reset = true;
    }
}

impl RemotePolicy {
    /// Tells the server now that the episode is over: by GR00T's `reset`, or, as openpi has no word for it, by hanging up.
    ///
    /// # Errors
    /// A server that is gone, or refuses.
    pub fn end_episode(&mut self) -> Result<(), ServeError> {
        match self.client.url().protocol {
            Protocol::Groot => drop(self.client.groot("reset", Some(Value::map([("options", Value::Nil)])))?),
            Protocol::Openpi => self.client.hang_up(),
        }
        self.needs_reset = false;
        Ok(())
    }

    fn forget(&mut self) -> Result<(), ServeError> {
        if self.needs_reset { self.end_episode() } else { Ok(()) }
    }
}

fn check_horizon(horizon: usize) -> Result<(), ServeError> {
    if (1..=MAX_HORIZON).contains(&horizon) {
        return Ok(());
    }
    Err(ServeError::message("actions per chunk of the server", format!("1 to {MAX_HORIZON}"), horizon.to_string()))
}

fn check_state(layout: &Layout, observations: &[Observation]) -> Result<(), ServeError> {
    let width = layout.state_width();
    match observations.iter().find(|seen| seen.proprio.len() != width) {
        Some(seen) => {
            let (expected, got) = (format!("{width} values"), seen.proprio.len().to_string());
            Err(ServeError::message(format!("proprioception for the layout {}", layout.name), expected, got))
        }
        None => Ok(()),
    }
}

/// An array of floating point in an answer, of this shape and finite.
fn numbers(answer: &Value, name: &str, shape: &[usize]) -> Result<Vec<f32>, ServeError> {
    let wrong = |got: String| ServeError::message(name, format!("numbers of shape {shape:?}"), got);
    let Some(Value::Array(array)) = answer.get(name) else {
        return Err(wrong(answer.get(name).map_or_else(|| "nothing".into(), Value::describe)));
    };
    if array.shape() != shape {
        return Err(wrong(array.describe()));
    }
    let values = array.f32s()?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(wrong("a value that is not finite".into()));
    }
    Ok(values)
}

/// An observation in which nothing can be seen.
fn dark(layout: &Layout) -> Observation {
    let image = |camera: &crate::CameraLayout| {
        let (height, width) = camera.size.unwrap_or((PROBE_SIDE, PROBE_SIDE));
        Camera { name: camera.name.clone(), height, width, rgb: vec![0; height * width * 3] }
    };
    Observation { cameras: layout.cameras.iter().map(image).collect(), proprio: vec![0.0; layout.state_width()] }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn addresses_read_back_and_others_are_refused() {
        for text in ["groot://127.0.0.1:5555", "openpi://robot.local:8000", "groot://[::1]:1"] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "groot://",
            "groot://host",
            "groot://:5555",
            "groot://h:0",
            "groot://h:70000",
            "http://h:80",
            "groot://a:b:5",
            "groot://u@h:5",
            "groot://h/p:5",
            "GROOT://h:5",
        ] {
            assert!(text.parse::<Url>().unwrap_err().to_string().contains("groot://host:port"), "{text}");
        }
    }
}
