//! The boxes that things are made of. One list serves physics and pictures: what collides is what is seen.

use rapier3d::math::{Pose, Rotation, Vector};

use crate::layout::{Colour, Kind};

/// A box of one colour in the frame of its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brick {
    pub(crate) half: Vector,
    pub(crate) pose: Pose,
    /// RGB, 0 to 255.
    pub(crate) colour: [u8; 3],
    /// Whether it takes part in collisions; decoration does not.
    pub(crate) solid: bool,
}

/// Half the edge of a block, metres.
pub(crate) const BLOCK_HALF: f32 = 0.022;
/// Height of the basket's rim, metres.
pub(crate) const BASKET_RIM: f32 = 0.048;
/// How far the drawer can be pulled out, metres.
pub(crate) const DRAWER_TRAVEL: f32 = 0.10;
/// The drawer's handle in the frame of the drawer: distance in front of its centre, and height of its middle.
pub(crate) const HANDLE: (f32, f32) = (0.083, 0.050);
/// Height at which the knob's bar is grasped, metres.
pub(crate) const KNOB_GRIP: f32 = 0.040;

const STEEL: [u8; 3] = [92, 98, 108];
const FINGER: [u8; 3] = [54, 58, 68];
const FINGER_TIP: [u8; 3] = [24, 156, 160];

fn brick(half: [f32; 3], at: [f32; 3], colour: [u8; 3]) -> Brick {
    Brick {
        half: Vector::from(half),
        pose: Pose::from_parts(Vector::from(at), Rotation::IDENTITY),
        colour,
        solid: true,
    }
}

fn turned(brick: Brick, turn: Rotation) -> Brick {
    Brick { pose: Pose::from_parts(turn * brick.pose.translation, turn * brick.pose.rotation), ..brick }
}

/// Eight walls around the origin, leaning outwards by `lean` radians.
fn ring(radius: f32, height: f32, base: f32, thickness: f32, lean: f32, colour: [u8; 3]) -> Vec<Brick> {
    let width = radius * (std::f32::consts::PI / 8.0).tan() * 1.04;
    (0..8)
        .map(|side| {
            let mut wall = brick([thickness, width, height / 2.0], [radius, 0.0, base + height / 2.0], colour);
            wall.pose.rotation = Rotation::from_rotation_y(lean);
            turned(wall, Rotation::from_rotation_z(side as f32 * std::f32::consts::FRAC_PI_4))
        })
        .collect()
}

/// An octagonal slab on the ground plane: four strips, each joining two opposite sides.
fn disc(radius: f32, half_height: f32, colour: [u8; 3]) -> impl Iterator<Item = Brick> {
    let half_side = radius * (std::f32::consts::PI / 8.0).tan();
    (0..4).map(move |strip| {
        let slab = brick([radius, half_side, half_height], [0.0, 0.0, half_height], colour);
        turned(slab, Rotation::from_rotation_z(strip as f32 * std::f32::consts::FRAC_PI_4))
    })
}

/// Half the height of the centre above the table when a thing of this kind rests on it.
pub(crate) fn resting_height(kind: Kind) -> f32 {
    if let Kind::Block(_) = kind { BLOCK_HALF } else { 0.0 }
}

/// The bricks of a thing; of a drawer, those of the cabinet that stands still.
pub(crate) fn bricks(kind: Kind) -> Vec<Brick> {
    match kind {
        Kind::Block(colour) => {
            let rgb = match colour {
                Colour::Red => [214, 48, 44],
                Colour::Green => [52, 168, 72],
                Colour::Blue => [44, 96, 208],
                Colour::Yellow => [242, 196, 36],
            };
            vec![brick([BLOCK_HALF; 3], [0.0; 3], rgb)]
        }
        Kind::Bowl => {
            let colour = [128, 84, 176];
            let mut bricks = ring(0.048, 0.036, 0.002, 0.003, 0.30, colour);
            bricks.extend(disc(0.042, 0.003, [104, 66, 148]));
            bricks
        }
        Kind::Plate => {
            let colour = [236, 236, 228];
            let mut bricks = ring(0.062, 0.010, 0.002, 0.006, 0.0, [88, 150, 196]);
            bricks.extend(disc(0.058, 0.004, colour));
            bricks
        }
        Kind::Basket => {
            let (half, wall, colour) = (0.068, 0.004, [168, 112, 60]);
            let middle = BASKET_RIM / 2.0;
            let mut bricks = vec![brick([half, half, 0.003], [0.0, 0.0, 0.003], [128, 82, 42])];
            for side in [-1.0, 1.0] {
                bricks.push(brick([wall, half + wall, middle], [side * half, 0.0, middle], colour));
                bricks.push(brick([half - wall, wall, middle], [0.0, side * half, middle], colour));
            }
            bricks
        }
        Kind::Drawer { .. } => {
            let (depth, width, colour) = (0.055, 0.072, [196, 168, 128]);
            let mut bricks = vec![
                brick([depth, width, 0.004], [0.0, 0.0, 0.086], colour),
                brick([0.004, width, 0.041], [-depth + 0.004, 0.0, 0.041], colour),
            ];
            for side in [-1.0, 1.0] {
                bricks.push(brick([depth, 0.004, 0.041], [0.0, side * (width - 0.004), 0.041], colour));
            }
            bricks
        }
        Kind::Knob => {
            vec![brick([0.026, 0.026, 0.009], [0.0, 0.0, 0.009], [74, 80, 92])]
        }
    }
}

/// The moving part of the cabinet, its origin at the middle of the tray's bottom.
pub(crate) fn drawer_bricks() -> Vec<Brick> {
    let (depth, width, colour) = (0.046, 0.062, [226, 204, 168]);
    let mut bricks = vec![
        brick([depth, width, 0.003], [0.0, 0.0, 0.007], colour),
        brick([0.003, width, 0.018], [-depth + 0.003, 0.0, 0.026], colour),
        brick([0.005, 0.066, 0.036], [depth + 0.005, 0.0, 0.041], [214, 150, 84]),
        // The arm and the upright of the handle, which the fingers close on.
        brick([0.012, 0.006, 0.006], [depth + 0.020, 0.0, 0.044], STEEL),
        brick([0.008, 0.014, 0.022], [HANDLE.0, 0.0, HANDLE.1], [60, 64, 72]),
    ];
    for side in [-1.0, 1.0] {
        bricks.push(brick([depth, 0.003, 0.018], [0.0, side * (width - 0.003), 0.026], colour));
    }
    bricks
}

/// The part of the knob that turns: a dial with a bar to grasp, pointing along y at angle zero.
pub(crate) fn dial_bricks() -> Vec<Brick> {
    vec![
        brick([0.022, 0.022, 0.003], [0.0, 0.0, 0.022], [200, 204, 210]),
        brick([0.008, 0.030, 0.015], [0.0, 0.0, KNOB_GRIP], [236, 120, 36]),
        Brick { solid: false, ..brick([0.0084, 0.007, 0.0154], [0.0, -0.0235, KNOB_GRIP], [250, 250, 250]) },
    ]
}

/// The palm, in its own frame (fingers below, sliding along x).
pub(crate) fn palm_bricks() -> Vec<Brick> {
    vec![
        brick([0.060, 0.020, 0.014], [0.0; 3], STEEL),
        Brick { solid: false, ..brick([0.020, 0.016, 0.016], [0.0, 0.0, 0.030], [124, 130, 140]) },
    ]
}

/// Half the size of a finger, metres.
pub(crate) const FINGER_HALF: [f32; 3] = [0.008, 0.011, 0.029];

/// A finger in its own frame, its origin at the centre.
pub(crate) fn finger_bricks() -> Vec<Brick> {
    let [x, y, z] = FINGER_HALF;
    let tip = [x + 0.0003, y + 0.0003, 0.007];
    vec![brick(FINGER_HALF, [0.0; 3], FINGER), Brick { solid: false, ..brick(tip, [0.0, 0.0, 0.0072 - z], FINGER_TIP) }]
}
