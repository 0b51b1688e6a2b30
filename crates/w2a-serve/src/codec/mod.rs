//! msgpack with numpy arrays, as both protocols write it: values, arrays, and the limits that keep a hostile message cheap.

mod array;
mod decode;
mod encode;
mod error;
mod npy;
mod parted;
#[cfg(test)]
mod tests;
mod value;

pub use array::{DType, Kind, NdArray};
pub(crate) use decode::decode_parted;
pub use decode::{MAX_DEPTH, MAX_VALUES, decode};
pub use encode::encode;
pub use error::CodecError;
pub(crate) use parted::Parted;
pub use value::Value;

/// How a numpy array is written inside of msgpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"__ndarray_class__": true, "as_npy": <a whole .npy file>}` (GR00T's `server_client.py`).
    Groot,
    /// `{b"__ndarray__": true, b"data", b"dtype", b"shape"}` with keys of bytes (openpi's `msgpack_numpy.py`); a numpy
    /// scalar is `{b"__npgeneric__": true, b"data", b"dtype"}` and is read as the number it holds.
    Openpi,
}

pub(crate) const GROOT_MARK: &str = "__ndarray_class__";
pub(crate) const GROOT_DATA: &str = "as_npy";
pub(crate) const OPENPI_MARK: &str = "__ndarray__";
pub(crate) const OPENPI_SCALAR: &str = "__npgeneric__";
