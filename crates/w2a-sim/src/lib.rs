//! The embedded `tabletop` benchmark: a parallel-jaw gripper over a table, and the contract of every environment.
//!
//! Coordinates are metres in a right-handed frame: the table's top is the plane `z = 0`, x points right and y away in
//! the picture of the [`View::Agent`] camera. Blocks, bowl, plate, basket, drawer and knob are simulated as rigid
//! bodies; the hand follows a Cartesian target with limited force, and its two fingers are bodies of their own.

mod environment;
mod error;
mod expert;
mod layout;
mod libero;
mod raster;
mod record;
mod rng;
mod scene;
mod shapes;
mod tabletop;
mod tasks;
mod view;
mod world;

pub use environment::{CameraSpec, Environment, EnvironmentSpec, StepOutcome, batches};
pub use error::SimError;
pub use expert::Expert;
pub use record::{Recording, record, record_many};
pub use scene::{Range, Scene, Split, Suite};
pub use tabletop::{ACTION_NAMES, ACTION_WIDTH, CONTROL_HZ, PROPRIO_NAMES, PROPRIO_WIDTH, Tabletop};
pub use tasks::{TaskInfo, tasks};
pub use view::{IMAGE_SIZE, View};
pub use world::{HandState, MAX_APERTURE, MAX_TILT, METRES_PER_STEP, PrivilegedState, RADIANS_PER_STEP};
