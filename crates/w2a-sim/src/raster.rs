//! A small rasteriser: flat-shaded convex polygons, a depth buffer, and shadows on the ground.
//!
//! Everything in the scene is made of a few dozen boxes, so scan-converting their faces directly is several times
//! faster than a general pipeline, and the result is the same on every machine and number of threads.

use rapier3d::math::{Pose, Vector};

use crate::shapes::Brick;

/// Nothing nearer to the eye than this is drawn, metres.
const NEAR: f32 = 0.01;
/// Where the light comes from.
const TO_LIGHT: Vector = Vector::new(-0.32, -0.38, 0.868);

/// A pinhole camera that looks at a square image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lens {
    pub(crate) eye: Vector,
    pub(crate) right: Vector,
    pub(crate) down: Vector,
    pub(crate) forward: Vector,
    /// Tangent of half the field of view.
    pub(crate) spread: f32,
}

impl Lens {
    /// A camera at `eye` that looks at `centre` with `up` towards the top of its image.
    pub(crate) fn look_at(eye: Vector, centre: Vector, up: Vector, spread: f32) -> Self {
        let forward = (centre - eye).normalize();
        let right = forward.cross(up).normalize();
        Self { eye, right, down: forward.cross(right), forward, spread }
    }

    fn view(&self, point: Vector) -> Vector {
        let offset = point - self.eye;
        Vector::new(offset.dot(self.right), offset.dot(self.down), offset.dot(self.forward))
    }
}

/// How a polygon's pixels change the canvas.
#[derive(Clone, Copy)]
enum Ink {
    /// Replaces what is farther away.
    Solid([u8; 3]),
    /// Replaces everything; for the ground, which is drawn first and lies behind all else.
    Ground([u8; 3]),
    /// Darkens the ground once, however many shadows fall on it.
    Shadow,
}

/// A square image being drawn.
pub(crate) struct Canvas {
    size: usize,
    lens: Lens,
    rgb: Vec<[u8; 3]>,
    /// One over the distance along the view; 0 is the ground, -1 the ground in shadow.
    nearness: Vec<f32>,
}

impl Canvas {
    pub(crate) fn new(size: usize, lens: Lens, background: [u8; 3]) -> Self {
        Self { size, lens, rgb: vec![background; size * size], nearness: vec![0.0; size * size] }
    }

    /// Draws a convex polygon of the ground plane, over what is there.
    pub(crate) fn ground(&mut self, corners: &[Vector], colour: [u8; 3]) {
        self.polygon(corners, Ink::Ground(colour));
    }

    /// Draws the shadow of a box on the plane `z = 0`.
    pub(crate) fn shadow(&mut self, brick: &Brick, body: &Pose) {
        let pose = *body * brick.pose;
        let flat = corners(brick.half).map(|corner| {
            let point = pose.transform_point(corner);
            point - TO_LIGHT * (point.z / TO_LIGHT.z)
        });
        self.polygon(&hull(flat), Ink::Shadow);
    }

    /// Draws a box.
    pub(crate) fn brick(&mut self, brick: &Brick, body: &Pose) {
        let pose = *body * brick.pose;
        let corners = corners(brick.half).map(|corner| pose.transform_point(corner));
        for (axis, faces) in FACES.iter().enumerate() {
            let direction = pose.rotation * Vector::AXES[axis];
            let half = brick.half[axis];
            let side = (self.lens.eye - pose.translation).dot(direction);
            // Of two opposite faces at most one is seen.
            if side.abs() <= half {
                continue;
            }
            let normal = direction * side.signum();
            let face = faces[usize::from(side > 0.0)].map(|index| corners[index]);
            let light = 0.62 + 0.38 * normal.dot(TO_LIGHT).max(0.0) - 0.12 * (-normal.z).max(0.0);
            self.polygon(&face, Ink::Solid(brick.colour.map(|value| (f32::from(value) * light) as u8)));
        }
    }

    /// The image made smaller by averaging squares of `factor` pixels: RGB bytes, `[size / factor; 2]`, top row first.
    pub(crate) fn reduce(&self, factor: usize) -> Vec<u8> {
        let small = self.size / factor;
        let count = (factor * factor) as u32;
        let mut bytes = Vec::with_capacity(small * small * 3);
        for row in 0..small {
            for column in 0..small {
                let mut sum = [count / 2; 3];
                for line in row * factor..(row + 1) * factor {
                    for pixel in &self.rgb[line * self.size + column * factor..][..factor] {
                        (0..3).for_each(|channel| sum[channel] += u32::from(pixel[channel]));
                    }
                }
                bytes.extend(sum.map(|value| (value / count) as u8));
            }
        }
        bytes
    }

    fn polygon(&mut self, corners: &[Vector], ink: Ink) {
        let mut view = [Vector::ZERO; 10];
        let count = clip(corners.iter().map(|&corner| self.lens.view(corner)), &mut view);
        if count < 3 {
            return;
        }
        let half = self.size as f32 / 2.0;
        let scale = half / self.lens.spread;
        // Screen x and y in pixels, and nearness, which is an affine function of both over a plane.
        let mut screen = [Vector::ZERO; 10];
        for (at, point) in screen.iter_mut().zip(&view[..count]) {
            let nearness = point.z.recip();
            *at = Vector::new(half + scale * point.x * nearness, half + scale * point.y * nearness, nearness);
        }
        self.fill(&screen[..count], ink);
    }

    fn fill(&mut self, screen: &[Vector], ink: Ink) {
        let (mut top, mut bottom) = (f32::MAX, f32::MIN);
        for point in screen {
            top = top.min(point.y);
            bottom = bottom.max(point.y);
        }
        let (slope_x, slope_y) = slopes(screen);
        let last = self.size as f32 - 1.0;
        let rows = (top - 0.5).ceil().max(0.0) as usize..=((bottom - 0.5).floor().clamp(-1.0, last) + 1.0) as usize;
        for row in rows.take_while(|&row| row < self.size) {
            let y = row as f32 + 0.5;
            let (mut left, mut right) = (f32::MAX, f32::MIN);
            let mut previous = screen[screen.len() - 1];
            for &point in screen {
                if (previous.y <= y) != (point.y <= y) {
                    let x = previous.x + (point.x - previous.x) * ((y - previous.y) / (point.y - previous.y));
                    left = left.min(x);
                    right = right.max(x);
                }
                previous = point;
            }
            if left > right {
                continue;
            }
            let first = (left - 0.5).ceil().clamp(0.0, self.size as f32) as usize;
            let end = (right - 0.5).ceil().clamp(0.0, self.size as f32) as usize;
            if first >= end {
                continue;
            }
            let at = row * self.size;
            let pixels = self.rgb[at + first..at + end].iter_mut().zip(&mut self.nearness[at + first..at + end]);
            let mut nearness = screen[0].z + slope_x * (first as f32 + 0.5 - screen[0].x) + slope_y * (y - screen[0].y);
            match ink {
                Ink::Solid(colour) => {
                    for (pixel, depth) in pixels {
                        if nearness > *depth {
                            (*pixel, *depth) = (colour, nearness);
                        }
                        nearness += slope_x;
                    }
                }
                Ink::Ground(colour) => pixels.for_each(|(pixel, _)| *pixel = colour),
                Ink::Shadow => {
                    for (pixel, depth) in pixels.filter(|(_, depth)| **depth == 0.0) {
                        *pixel = pixel.map(|value| (u16::from(value) * 3 / 4) as u8);
                        *depth = -1.0;
                    }
                }
            }
        }
    }
}

/// Change of the third coordinate per unit of the first and of the second over the plane of a polygon.
fn slopes(screen: &[Vector]) -> (f32, f32) {
    // The largest triangle of the fan is the best conditioned.
    let mut best = Vector::ZERO;
    for pair in screen[1..].windows(2) {
        let normal = (pair[0] - screen[0]).cross(pair[1] - screen[0]);
        if normal.z.abs() > best.z.abs() {
            best = normal;
        }
    }
    if best.z.abs() < 1e-9 { (0.0, 0.0) } else { (-best.x / best.z, -best.y / best.z) }
}

/// Cuts off what is nearer than [`NEAR`]; returns how many corners are left in `out`.
fn clip(points: impl Iterator<Item = Vector> + Clone, out: &mut [Vector; 10]) -> usize {
    let mut count = 0;
    let Some(mut previous) = points.clone().last() else { return 0 };
    for point in points {
        if (point.z > NEAR) != (previous.z > NEAR) && count < out.len() {
            out[count] = previous + (point - previous) * ((NEAR - previous.z) / (point.z - previous.z));
            count += 1;
        }
        if point.z > NEAR && count < out.len() {
            out[count] = point;
            count += 1;
        }
        previous = point;
    }
    count
}

/// Corner `i` of a box: bit 0, 1, 2 of `i` choose the positive side of x, y, z.
fn corners(half: Vector) -> [Vector; 8] {
    std::array::from_fn(|index| {
        let sign = |bit: usize| if index >> bit & 1 == 1 { 1.0 } else { -1.0 };
        half * Vector::new(sign(0), sign(1), sign(2))
    })
}

/// Corners around the faces of a box: per axis, the negative and the positive one.
const FACES: [[[usize; 4]; 2]; 3] =
    [[[0, 2, 6, 4], [1, 3, 7, 5]], [[0, 1, 5, 4], [2, 3, 7, 6]], [[0, 1, 3, 2], [4, 5, 7, 6]]];

/// The convex hull of a box's shadow (Andrew's monotone chain); at most eight corners.
fn hull(mut points: [Vector; 8]) -> Vec<Vector> {
    points.sort_by(|a, b| (a.x, a.y).partial_cmp(&(b.x, b.y)).unwrap_or(std::cmp::Ordering::Equal));
    let mut chain: Vec<Vector> = Vec::with_capacity(16);
    for pass in 0..2 {
        let floor = chain.len() + 1;
        for index in 0..8 {
            let point = points[if pass == 0 { index } else { 7 - index }];
            while chain.len() > floor {
                let (a, b) = (chain[chain.len() - 2], chain[chain.len() - 1]);
                if (b.x - a.x) * (point.y - a.y) - (b.y - a.y) * (point.x - a.x) > 0.0 {
                    break;
                }
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop();
    }
    chain.truncate(8);
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rapier3d::math::Rotation;

    fn lens() -> Lens {
        Lens::look_at(Vector::new(0.0, -1.0, 0.0), Vector::ZERO, Vector::Z, 0.5)
    }

    fn cube(at: Vector, colour: [u8; 3]) -> Brick {
        Brick { half: Vector::splat(0.1), pose: Pose::from_parts(at, Rotation::IDENTITY), colour, solid: true }
    }

    #[test]
    fn nearer_boxes_hide_farther_ones_in_either_order() {
        let (near, far) = (cube(Vector::new(0.0, -0.3, 0.0), [255, 0, 0]), cube(Vector::ZERO, [0, 0, 255]));
        let draw = |bricks: [&Brick; 2]| {
            let mut canvas = Canvas::new(32, lens(), [0; 3]);
            bricks.into_iter().for_each(|brick| canvas.brick(brick, &Pose::IDENTITY));
            canvas.rgb
        };
        assert_eq!(draw([&near, &far]), draw([&far, &near]));
        let middle = draw([&near, &far])[16 * 32 + 16];
        assert!(middle[0] > 100 && middle[2] == 0, "{middle:?}");
    }

    #[test]
    fn a_box_covers_the_pixels_that_the_pinhole_says() {
        let mut canvas = Canvas::new(100, lens(), [0; 3]);
        canvas.brick(&cube(Vector::ZERO, [255; 3]), &Pose::IDENTITY);
        // The front face is 0.9 m away, 0.2 m wide, and 0.9 m of view are 100 pixels.
        let wide = (0..100).filter(|&column| canvas.rgb[50 * 100 + column][0] > 0).count();
        assert!((22..=23).contains(&wide), "{wide} columns");
        assert!(canvas.rgb[50 * 100 + 50][0] > 0 && canvas.rgb[50 * 100 + 30][0] == 0);
    }

    #[test]
    fn what_lies_behind_the_eye_is_cut_off() {
        let mut canvas = Canvas::new(16, lens(), [7; 3]);
        canvas.brick(&cube(Vector::new(0.0, -2.0, 0.0), [255; 3]), &Pose::IDENTITY);
        assert!(canvas.rgb.iter().all(|&pixel| pixel == [7; 3]));
        let plane = [[-9.0, -9.0], [9.0, -9.0], [9.0, 9.0], [-9.0, 9.0]].map(|[x, y]| Vector::new(x, y, -0.2));
        canvas.ground(&plane, [50; 3]);
        assert_eq!((canvas.rgb[0], canvas.rgb[15 * 16 + 8]), ([7; 3], [50; 3]));
    }

    #[test]
    fn shadows_darken_once() {
        let eye = Lens::look_at(Vector::new(0.0, 0.0, 2.0), Vector::ZERO, Vector::Y, 0.5);
        let mut canvas = Canvas::new(16, eye, [100; 3]);
        for _ in 0..2 {
            canvas.shadow(&cube(Vector::new(0.0, 0.0, 0.1), [0; 3]), &Pose::IDENTITY);
        }
        assert_eq!(canvas.rgb[8 * 16 + 8], [75; 3]);
        assert_eq!(canvas.rgb[0], [100; 3]);
    }
}
