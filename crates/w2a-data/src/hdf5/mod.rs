//! Demonstrations in HDF5: robomimic, LIBERO, RoboCasa, and recordings that hold nothing but actions.
//!
//! [`Hdf5Dataset`] reads names and sizes when opened and one demonstration at a time afterwards. What sets the sources
//! apart is a closed list, [`Profile`], recognised by what is in the file.

mod container;
mod dataset;
mod error;
mod profile;
mod reader;

pub use dataset::{DemoRecord, Hdf5Dataset};
pub use error::Hdf5Error;
pub use profile::{Group, Profile, libero_instruction};
pub use reader::Hdf5Reader;
