//! The two cameras, and how a table is drawn through them.

use rapier3d::math::Vector;
use w2a_data::Camera;

use crate::raster::{Canvas, Lens};
use crate::world::World;

/// Side of the observation images, pixels.
pub const IMAGE_SIZE: usize = 64;

/// Images are drawn this many times larger and averaged: a small image then still tells where an edge lies.
const OVERSAMPLING: usize = 2;

const BACKGROUND: [u8; 3] = [196, 206, 214];
const TABLE: [u8; 3] = [176, 160, 140];
const MAT: [u8; 3] = [214, 204, 186];

/// A camera of the tabletop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Fixed, in front of the table (at negative y), looking down on the workspace.
    Agent,
    /// On the palm, looking down between the fingers.
    Wrist,
}

impl View {
    /// Both cameras, in the order of observations.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Wrist];

    /// The camera's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Wrist => "wrist",
        }
    }

    fn lens(self, world: &World) -> Lens {
        match self {
            Self::Agent => {
                Lens::look_at(Vector::new(-0.02, -0.46, 0.62), Vector::new(-0.02, 0.015, 0.03), Vector::Z, 0.395)
            }
            Self::Wrist => {
                let palm = world.palm_pose();
                let at = |x, y, z| palm.transform_point(Vector::new(x, y, z));
                let up = palm.transform_vector(Vector::Y);
                Lens::look_at(at(0.0, -0.052, 0.0), at(0.0, -0.019, -0.068), up, 0.75)
            }
        }
    }
}

/// Draws a table: RGB bytes, `[size, size, 3]`, top row first.
pub(crate) fn render(world: &World, view: View, size: usize) -> Vec<u8> {
    let mut canvas = Canvas::new(size * OVERSAMPLING, view.lens(world), BACKGROUND);
    canvas.ground(&rectangle(0.60, 0.50), TABLE);
    canvas.ground(&rectangle(0.215, 0.215), MAT);
    for part in &world.parts {
        let pose = world.pose(part);
        part.bricks.iter().filter(|brick| brick.solid).for_each(|brick| canvas.shadow(brick, &pose));
    }
    for part in &world.parts {
        let pose = world.pose(part);
        part.bricks.iter().for_each(|brick| canvas.brick(brick, &pose));
    }
    canvas.reduce(OVERSAMPLING)
}

/// Both observation images.
pub(crate) fn cameras(world: &World) -> Vec<Camera> {
    View::ALL
        .into_iter()
        .map(|view| Camera {
            name: view.name().to_owned(),
            height: IMAGE_SIZE,
            width: IMAGE_SIZE,
            rgb: render(world, view, IMAGE_SIZE),
        })
        .collect()
}

fn rectangle(x: f32, y: f32) -> [Vector; 4] {
    [Vector::new(-x, -y, 0.0), Vector::new(x, -y, 0.0), Vector::new(x, y, 0.0), Vector::new(-x, y, 0.0)]
}
