//! Devices by name.

use burn::tensor::Device;

use crate::NnError;

/// Names of the devices in this build.
///
/// `cpu` is burn's `flex` backend with the kernels of this crate. `wgpu`, which the feature of that name builds, runs burn's
/// operations as WGSL on whatever graphics interface the machine offers.
pub const DEVICES: &[&str] = &[
    "cpu",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// The device of a name, without autodiff.
///
/// # Errors
/// A name that this build does not know; the message lists those it does. A device that the machine does not have.
pub fn device(name: &str) -> Result<Device, NnError> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics(),
        other => Err(NnError::Input {
            what: "device".into(),
            expected: format!("one of this build's: {}", DEVICES.join(", ")),
            got: format!("{other:?}"),
        }),
    }
}

/// Starts the device, so that a machine without it gets an error here and no panic at the first tensor.
#[cfg(feature = "wgpu")]
fn graphics() -> Result<Device, NnError> {
    /// A process can start it only once.
    static STARTED: std::sync::OnceLock<Result<Device, String>> = std::sync::OnceLock::new();
    let start = || Device::wgpu_options().init().map_err(|error| error.to_string());
    STARTED.get_or_init(start).clone().map_err(|got| NnError::Input {
        what: "device wgpu".into(),
        expected: "a graphics adapter with its driver; choose `cpu` without one".into(),
        got,
    })
}
