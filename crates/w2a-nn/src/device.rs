//! Devices by name.

use burn::tensor::Device;

use crate::NnError;

/// Names of the devices in this build.
pub const DEVICES: &[&str] = &["cpu"];

/// The device of a name, without autodiff.
///
/// # Errors
/// A name that this build does not know; the message lists those it does.
pub fn device(name: &str) -> Result<Device, NnError> {
    match name {
        "cpu" => Ok(Device::flex()),
        other => Err(NnError::Input {
            what: "device".into(),
            expected: format!("one of this build's: {}", DEVICES.join(", ")),
            got: format!("{other:?}"),
        }),
    }
}
