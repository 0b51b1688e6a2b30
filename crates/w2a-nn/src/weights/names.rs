//! From the nested dictionaries of a checkpoint to tensors by name.

use std::collections::BTreeMap;

use super::pickle::{Node, Pickle, Value};
use super::problem::WeightsProblem;

/// Deeper nesting is refused.
const MAX_DEPTH: usize = 64;
/// More values are refused; a container that is referred to often counts every time.
const MAX_VISITS: usize = 4 << 20;
const MAX_NAME: usize = 512;
const MAX_NAMES: usize = 64 << 20;

/// Keys under which trainers put the weights.
const WRAPPERS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "net"];
/// Keys of what trainers put beside them; such tensors are left out, and named.
const TRAINER_STATE: [&str; 10] = [
    "optimizer",
    "optimizer_state_dict",
    "optimizers",
    "optim",
    "scheduler",
    "lr_scheduler",
    "scheduler_state_dict",
    "scaler",
    "grad_scaler",
    "rng_state",
];

/// Tensors by name.
pub(crate) struct Flat {
    /// Name and number of each tensor.
    pub tensors: BTreeMap<String, u32>,
    /// Names of tensors that belong to the state of a training.
    pub left_out: Vec<String>,
}

/// Flattens what a pickle came to: keys are joined by dots, and elements of lists have their number.
///
/// A dictionary around the weights (`{"model": {..}}`, also nested) is taken off if everything beside it is the state of
/// a training; so is the `module.` that `DataParallel` puts before every name.
pub(crate) fn flatten(pickle: &Pickle) -> Result<Flat, WeightsProblem> {
    let mut walk = Walk { pickle, visits: 0, bytes: 0, out: BTreeMap::new() };
    let mut root = pickle.root;
    let mut left_out = Vec::new();
    for _ in 0..4 {
        let Some((inner, beside)) = wrapped(pickle, root) else { break };
        for (key, value) in beside {
            walk.visit(&mut vec![Some(key)], value)?;
        }
        left_out.extend(std::mem::take(&mut walk.out).into_keys());
        root = inner;
    }
    walk.visit(&mut Vec::new(), root)?;
    let mut tensors = walk.out;
    if tensors.is_empty() {
        return Err(WeightsProblem::NotRead { what: "it holds no tensors".into() });
    }
    if tensors.keys().all(|name| name.starts_with("module.")) {
        tensors = tensors.into_iter().map(|(name, index)| (name["module.".len()..].to_owned(), index)).collect();
    }
    Ok(Flat { tensors, left_out })
}

/// The dictionary inside of a wrapper, and what lies beside it; nothing if `value` is no wrapper.
fn wrapped(pickle: &Pickle, value: Value) -> Option<(Value, Vec<(String, Value)>)> {
    let Value::Node(index) = value else { return None };
    let Node::Dict(pairs) = &pickle.nodes[index as usize] else { return None };
    let is_dict =
        |value: Value| matches!(value, Value::Node(index) if matches!(pickle.nodes[index as usize], Node::Dict(_)));
    let mut inner = None;
    let mut beside = Vec::new();
    for &(key, value) in pairs {
        let Value::Text(span) = key else { return None };
        let key = pickle.text(span);
        if WRAPPERS.contains(&key) && is_dict(value) {
            if inner.replace(value).is_some() {
                return None;
            }
        } else if TRAINER_STATE.contains(&key) {
            beside.push((key.to_owned(), value));
        } else if matches!(value, Value::Tensor(_) | Value::Node(_)) {
            // It may be a part of the model: nothing is taken off.
            return None;
        }
    }
    Some((inner?, beside))
}

struct Walk<'a> {
    pickle: &'a Pickle<'a>,
    visits: usize,
    bytes: usize,
    out: BTreeMap<String, u32>,
}

impl Walk<'_> {
    /// `path` has `None` for a key that is neither text nor a number.
    fn visit(&mut self, path: &mut Vec<Option<String>>, value: Value) -> Result<(), WeightsProblem> {
        self.count()?;
        match value {
            Value::Tensor(index) => self.tensor(path, index),
            Value::Node(index) => {
                if path.len() >= MAX_DEPTH {
                    return Err(WeightsProblem::too_large("the nesting of its containers", format!("{MAX_DEPTH}")));
                }
                let pickle = self.pickle;
                match &pickle.nodes[index as usize] {
                    Node::Dict(pairs) => {
                        for &(key, value) in pairs {
                            self.child(path, || key_text(pickle, key), value)?;
                        }
                    }
                    Node::List(items) | Node::Tuple(items) => {
                        for (number, &value) in items.iter().enumerate() {
                            self.child(path, || Some(number.to_string()), value)?;
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self) -> Result<(), WeightsProblem> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(WeightsProblem::too_large("the number of values in it", format!("{MAX_VISITS}")));
        }
        Ok(())
    }

    fn child(
        &mut self,
        path: &mut Vec<Option<String>>,
        key: impl FnOnce() -> Option<String>,
        value: Value,
    ) -> Result<(), WeightsProblem> {
        // Numbers and text, such as the step of a training, have no place in a state dict and no name is made for them.
        if !matches!(value, Value::Tensor(_) | Value::Node(_)) {
            return self.count();
        }
        path.push(key());
        self.visit(path, value)?;
        path.pop();
        Ok(())
    }

    fn tensor(&mut self, path: &[Option<String>], index: u32) -> Result<(), WeightsProblem> {
        let Some(parts) = path.iter().map(Option::as_deref).collect::<Option<Vec<&str>>>() else {
            return Err(WeightsProblem::NotRead {
                what: "a tensor has a key that is neither text nor a number".into(),
            });
        };
        let len = parts.iter().map(|part| part.len() + 1).sum::<usize>();
        self.bytes += len;
        if len > MAX_NAME || self.bytes > MAX_NAMES {
            return Err(WeightsProblem::too_large("the name of a tensor", format!("{MAX_NAME} bytes")));
        }
        let name = if parts.is_empty() { "tensor".to_owned() } else { parts.join(".") };
        if self.out.insert(name.clone(), index).is_some() {
            return Err(WeightsProblem::damaged(format!("two tensors are called {name:?}")));
        }
        Ok(())
    }
}

fn key_text(pickle: &Pickle, key: Value) -> Option<String> {
    match key {
        // A longer one than any name would only take memory; the limit of names then refuses it.
        Value::Text(span) => Some(pickle.text(span).chars().take(MAX_NAME + 1).collect()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
