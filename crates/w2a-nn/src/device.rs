//! Devices by name.

use burn::tensor::Device;

use crate::NnError;

/// Names of the devices in this build.
///
/// `cpu` is burn's `flex` backend with the kernels of this crate. Others run burn's operations: `wgpu` compiles WGSL for
/// whatever graphics interface the machine offers, `vulkan` SPIR-V for Vulkan alone. A feature of the same name builds each.
pub const DEVICES: &[&str] = &[
    "cpu",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "vulkan")]
    "vulkan",
];

/// The device of a name, without autodiff.
///
/// # Errors
/// A name that this build does not know; the message lists those it does. A device that the machine does not have.
pub fn device(name: &str) -> Result<Device, NnError> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics::device(name, graphics::Api::Auto),
        #[cfg(feature = "vulkan")]
        "vulkan" => graphics::device(name, graphics::Api::Vulkan),
        other => Err(NnError::Input {
            what: "device".into(),
            expected: format!("one of this build's: {}", DEVICES.join(", ")),
            got: format!("{other:?}"),
        }),
    }
}

#[cfg(feature = "wgpu")]
mod graphics {
    use std::sync::{Mutex, PoisonError};

    use burn::tensor::Device;
    pub(super) use burn::tensor::wgpu::WgpuBackend as Api;

    use crate::NnError;

    /// Devices that were started: a process can start each only once.
    static STARTED: Mutex<Vec<(String, Device)>> = Mutex::new(Vec::new());

    /// Starts a device, so that a machine without it gets an error here and no panic at the first tensor.
    pub(super) fn device(name: &str, api: Api) -> Result<Device, NnError> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = started.iter().find(|(known, _)| known == name) {
            return Ok(device.clone());
        }
        let device = Device::wgpu_options().graphics_api(api).init().map_err(|source| NnError::Input {
            what: format!("device {name}"),
            expected: "a graphics adapter with its driver; choose `cpu` without one".into(),
            got: source.to_string(),
        })?;
        started.push((name.to_owned(), device.clone()));
        Ok(device)
    }
}
