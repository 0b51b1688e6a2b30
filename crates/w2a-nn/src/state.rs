//! A module's parameters by name, in and out.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use crate::NnError;

/// One named tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// Tensors by name, in name order. Names are field paths joined by dots, as PyTorch's.
pub type StateDict = BTreeMap<String, Array>;

/// All float parameters of `module`.
///
/// # Errors
/// If the device fails to hand the data over.
pub fn state_dict<M: Module>(module: &M) -> Result<StateDict, NnError> {
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.failed.map_or(Ok(collect.out), Err)
}

/// `module` with the parameters in `state`, which must match name for name and shape for shape.
///
/// # Errors
/// [`NnError::MissingTensor`], [`NnError::Shape`] or [`NnError::ExtraTensors`].
pub fn load_state<M: Module>(module: M, state: StateDict) -> Result<M, NnError> {
    let mut load = Load { path: Vec::new(), state, failed: None };
    let module = module.map(&mut load);
    if let Some(error) = load.failed {
        return Err(error);
    }
    if !load.state.is_empty() {
        return Err(NnError::ExtraTensors { names: load.state.into_keys().collect() });
    }
    Ok(module)
}

#[derive(Default)]
struct Collect {
    path: Vec<String>,
    out: StateDict,
    failed: Option<NnError>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        match crate::values(value) {
            Ok(data) => {
                self.out.insert(self.path.join("."), Array { shape, data });
            }
            Err(error) => self.failed = Some(error),
        }
    }
}

struct Load {
    path: Vec<String>,
    state: StateDict,
    failed: Option<NnError>,
}

impl ModuleMapper for Load {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let expected = param.val().dims().to_vec();
        let Some(array) = self.state.remove(&name) else {
            self.failed.get_or_insert(NnError::MissingTensor { name, shape: expected });
            return param;
        };
        if array.shape != expected {
            self.failed.get_or_insert(NnError::Shape { name, got: array.shape, expected });
            return param;
        }
        param.map(|old| {
            let tracked = old.is_require_grad();
            Tensor::from_data(TensorData::new(array.data, array.shape), &old.device()).set_require_grad(tracked)
        })
    }
}
