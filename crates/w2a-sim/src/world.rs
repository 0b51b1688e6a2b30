//! One simulated table: rigid bodies, a force-limited gripper, and the task's success predicate.

use rapier3d::math::{Pose, Rotation, Vector};
use rapier3d::prelude::{
    ColliderBuilder, GenericJoint, MassProperties, PhysicsWorld, PrismaticJointBuilder, RevoluteJointBuilder,
    RigidBodyBuilder, RigidBodyHandle, SpringCoefficients,
};

use crate::layout::{Item, Kind, Layout};
use crate::shapes::{
    BASKET_RIM, Brick, DRAWER_TRAVEL, FINGER_HALF, HANDLE, KNOB_GRIP, bricks, dial_bricks, drawer_bricks,
    finger_bricks, palm_bricks, resting_height,
};
use crate::tasks::Goal;
use crate::{ACTION_WIDTH, PROPRIO_WIDTH, Scene};

/// Physics steps of 2 ms in a control step of 50 ms; at 5 ms the gripper lets go.
const SUBSTEPS: usize = 25;
const DT: f32 = 0.002;

/// Metres of hand motion per control step at a full-scale action.
pub const METRES_PER_STEP: f32 = 0.06;
/// Radians of hand rotation per control step at a full-scale action.
pub const RADIANS_PER_STEP: f32 = 0.3;
/// Largest roll and pitch of the hand, radians.
pub const MAX_TILT: f32 = 0.35;
/// Largest distance between the fingers, metres.
pub const MAX_APERTURE: f32 = 0.09;

/// Reach of the tool centre: metres from the middle of the table, and its lowest and highest point.
const REACH: f32 = 0.26;
const HEIGHTS: [f32; 2] = [0.018, 0.26];
/// The target runs ahead of a hand that is held back by no more than this, metres.
const LEASH: f32 = 0.03;

/// The palm above the tool centre, which lies between the finger tips.
const PALM_ABOVE_TOOL: f32 = 0.066;
const FINGER_BELOW_PALM: f32 = PALM_ABOVE_TOOL - 0.014;
const PALM_MASS: f32 = 0.8;
const FINGER_MASS: f32 = 0.15;
const HAND_MASS: f32 = PALM_MASS + 2.0 * FINGER_MASS;
const HAND_INERTIA: f32 = 0.004;
/// Gains of the hand per unit of mass: 60 rad/s, critically damped.
const STIFFNESS: f32 = 3600.0;
const DAMPING: f32 = 120.0;
const MAX_FORCE: f32 = 60.0;
const MAX_TORQUE: f32 = 4.0;
/// Gains of a finger, N/m and N s/m: 12 N of grip, closing at 0.25 m/s.
const FINGER_STIFFNESS: f32 = 3000.0;
const FINGER_DAMPING: f32 = 48.0;
const FINGER_LEAD: f32 = 0.004;
const MAX_FINGER_FORCE: f32 = 20.0;

/// A rigid body with the bricks to draw it from.
pub(crate) struct Part {
    pub(crate) body: RigidBodyHandle,
    pub(crate) bricks: Vec<Brick>,
}

/// What the robot's hand does, as proprioception reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HandState {
    /// Tool centre between the finger tips, metres.
    pub position: [f32; 3],
    /// Velocity of the tool centre, metres per second.
    pub velocity: [f32; 3],
    /// Roll, pitch and yaw of the palm, radians.
    pub rotation: [f32; 3],
    /// Distance between the fingers, metres.
    pub aperture: f32,
}

/// The whole state of a table that a scripted expert or a diagnostic may look at.
#[derive(Clone, Debug, PartialEq)]
pub struct PrivilegedState {
    /// The hand.
    pub hand: HandState,
    /// Where the controller wants the tool centre, metres, and its roll, pitch, yaw, radians.
    pub target: ([f32; 3], [f32; 3]),
    /// Name, position of the centre (of the handle for a drawer, of the bar for a knob; metres) and yaw (radians).
    pub objects: Vec<(String, [f32; 3], f32)>,
    /// How far the drawer is pulled out, metres, if there is one.
    pub drawer: Option<f32>,
    /// How far the knob is turned, radians, if there is one.
    pub knob: Option<f32>,
}

impl PrivilegedState {
    /// Position and yaw of a named thing.
    pub fn object(&self, name: &str) -> Option<([f32; 3], f32)> {
        self.objects.iter().find(|(other, ..)| other == name).map(|&(_, position, yaw)| (position, yaw))
    }
}

/// One table.
pub(crate) struct World {
    pub(crate) scene: Scene,
    physics: PhysicsWorld,
    items: Vec<(Item, RigidBodyHandle)>,
    /// Everything to draw.
    pub(crate) parts: Vec<Part>,
    palm: RigidBodyHandle,
    fingers: [RigidBodyHandle; 2],
    /// The cabinet that the drawer slides in.
    cabinet: Option<RigidBodyHandle>,
    target: Vector,
    target_angles: Vector,
}

impl World {
    /// Builds the start state of a scene and lets it come to rest.
    pub(crate) fn new(scene: Scene) -> Self {
        let layout = Layout::sample(&scene);
        let mut physics = PhysicsWorld { gravity: Vector::new(0.0, 0.0, -9.81), ..PhysicsWorld::default() };
        let parameters = &mut physics.integration_parameters;
        parameters.dt = DT;
        // Tolerances are for things of a few centimetres, not of a metre.
        parameters.length_unit = 0.1;
        parameters.num_solver_iterations = 3;
        // Stiffer than the default, which lets a gripped block sink several millimetres into the fingers.
        parameters.contact_softness = SpringCoefficients::new(150.0, 5.0);
        parameters.static_contact_softness = parameters.contact_softness;
        physics.insert_collider(
            ColliderBuilder::cuboid(0.6, 0.6, 0.05).translation(Vector::new(0.0, 0.0, -0.05)).friction(0.6).build(),
            None,
        );
        let target = Vector::from(layout.gripper);
        let palm_body = hand_body(target + Vector::Z * PALM_ABOVE_TOOL)
            .additional_mass_properties(MassProperties::new(Vector::ZERO, PALM_MASS, Vector::splat(HAND_INERTIA)));
        let palm = physics.bodies.insert(palm_body);
        let mut world = Self {
            scene,
            physics,
            items: Vec::new(),
            parts: Vec::new(),
            palm,
            fingers: [palm; 2],
            cabinet: None,
            target,
            target_angles: Vector::ZERO,
        };
        world.add_part(palm, palm_bricks(), 0.0, 0.5);
        for (index, side) in [1.0, -1.0].into_iter().enumerate() {
            world.fingers[index] = world.add_finger(target, side);
        }
        for item in layout.items {
            world.add_item(item);
        }
        for _ in 0..3 {
            world.advance([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
        }
        world
    }

    fn add_part(&mut self, body: RigidBodyHandle, bricks: Vec<Brick>, density: f32, friction: f32) {
        for brick in bricks.iter().filter(|brick| brick.solid) {
            let collider = ColliderBuilder::cuboid(brick.half.x, brick.half.y, brick.half.z)
                .position(brick.pose)
                .density(density)
                .friction(friction)
                .build();
            self.physics.colliders.insert_with_parent(collider, body, &mut self.physics.bodies);
        }
        self.parts.push(Part { body, bricks });
    }

    fn add_finger(&mut self, target: Vector, side: f32) -> RigidBodyHandle {
        let offset = Vector::X * (side * (MAX_APERTURE / 2.0 + FINGER_HALF[0]));
        let centre = target + Vector::Z * (PALM_ABOVE_TOOL - FINGER_BELOW_PALM) + offset;
        let properties = MassProperties::new(Vector::ZERO, FINGER_MASS, Vector::splat(1e-4));
        let finger = self.physics.bodies.insert(hand_body(centre).additional_mass_properties(properties));
        self.add_part(finger, finger_bricks(), 0.0, 1.2);
        let joint = PrismaticJointBuilder::new(Vector::X * side)
            .local_anchor1(Vector::new(side * FINGER_HALF[0], 0.0, -FINGER_BELOW_PALM))
            .local_anchor2(Vector::ZERO)
            .limits([0.0, MAX_APERTURE / 2.0])
            .contacts_enabled(false)
            .build();
        self.physics.impulse_joints.insert(self.palm, finger, joint, true);
        finger
    }

    fn add_item(&mut self, item: Item) {
        let at = Vector::new(item.x, item.y, resting_height(item.kind));
        let pose = Pose::from_parts(at, Rotation::from_rotation_z(item.yaw));
        let fixed = matches!(item.kind, Kind::Drawer { .. } | Kind::Knob);
        let builder = if fixed { RigidBodyBuilder::fixed() } else { RigidBodyBuilder::dynamic() };
        let body = self.physics.bodies.insert(builder.pose(pose).angular_damping(0.5));
        let (density, friction) = if let Kind::Block(_) = item.kind { (600.0, 0.8) } else { (2000.0, 0.5) };
        self.add_part(body, bricks(item.kind), density, friction);
        let main = match item.kind {
            Kind::Drawer { open } => {
                self.cabinet = Some(body);
                let joint = PrismaticJointBuilder::new(Vector::X)
                    .limits([0.0, DRAWER_TRAVEL])
                    .motor_velocity(0.0, 200.0)
                    .motor_max_force(1.0) // dry friction: it stays where it is left
                    .contacts_enabled(false)
                    .build();
                let start = pose * Pose::from_translation(Vector::X * open);
                self.add_jointed(body, start, drawer_bricks(), joint.into())
            }
            Kind::Knob => {
                let joint = RevoluteJointBuilder::new(Vector::Z)
                    .limits([-0.2, 1.8])
                    .motor_velocity(0.0, 500.0)
                    .motor_max_force(0.02)
                    .contacts_enabled(false)
                    .build();
                self.add_jointed(body, pose, dial_bricks(), joint.into())
            }
            _ => body,
        };
        self.items.push((item, main));
    }

    /// A body that slides or turns against a fixed one of the same origin.
    fn add_jointed(
        &mut self,
        parent: RigidBodyHandle,
        pose: Pose,
        bricks: Vec<Brick>,
        joint: GenericJoint,
    ) -> RigidBodyHandle {
        let body = self.physics.bodies.insert(RigidBodyBuilder::dynamic().pose(pose));
        self.add_part(body, bricks, 800.0, 0.8);
        self.physics.impulse_joints.insert(parent, body, joint, true);
        body
    }

    /// Executes one control step; values are clamped to `[-1, 1]`.
    pub(crate) fn advance(&mut self, action: [f32; ACTION_WIDTH]) {
        let action = action.map(|value| value.clamp(-1.0, 1.0));
        let (tool, angles) = (self.tool(), self.target_angles);
        let start = self.target;
        let wanted = start + Vector::new(action[0], action[1], action[2]) * METRES_PER_STEP;
        // Held back by an object, the target must not run away from the hand: pushing is limited, and so is the snap
        // when it comes free.
        let leashed = tool + (wanted - tool).clamp_length_max(LEASH + METRES_PER_STEP);
        let low = Vector::new(-REACH, -REACH, HEIGHTS[0]);
        self.target = leashed.clamp(low, Vector::new(REACH, REACH, HEIGHTS[1]));
        let turned = angles + Vector::new(action[3], action[4], action[5]) * RADIANS_PER_STEP;
        let tilt = Vector::new(MAX_TILT, MAX_TILT, std::f32::consts::PI);
        self.target_angles = turned.clamp(-tilt, tilt);
        let period = DT * SUBSTEPS as f32;
        let velocity = (self.target - start) / period;
        let spin = (self.target_angles - angles) / period;
        for substep in 1..=SUBSTEPS {
            let share = substep as f32 / SUBSTEPS as f32;
            self.push_hand(start.lerp(self.target, share), velocity, angles.lerp(self.target_angles, share), spin);
            self.push_fingers(action[6]);
            self.physics.step();
        }
    }

    /// Pulls the palm towards a moving target with limited force and torque.
    fn push_hand(&mut self, target: Vector, velocity: Vector, angles: Vector, spin: Vector) {
        let wanted = rotation(angles);
        let palm = &mut self.physics.bodies[self.palm];
        let pose = *palm.position();
        let error = target + wanted * Vector::new(0.0, 0.0, PALM_ABOVE_TOOL) - pose.translation;
        let force = HAND_MASS * (STIFFNESS * error + DAMPING * (velocity - palm.linvel()));
        let mut turn = wanted * pose.rotation.inverse();
        if turn.w < 0.0 {
            turn = -turn;
        }
        // Roll and pitch turn slowly and little, so their rates are taken for rates about the world's axes.
        let torque = HAND_INERTIA * (STIFFNESS * turn.to_scaled_axis() + DAMPING * (spin - palm.angvel()));
        palm.reset_forces(false);
        palm.reset_torques(false);
        palm.add_force(force.clamp_length_max(MAX_FORCE), true);
        palm.add_torque(torque.clamp_length_max(MAX_TORQUE), true);
    }

    /// Closes (`grip > 0`) or opens the fingers symmetrically with limited force, as a parallel jaw does.
    fn push_fingers(&mut self, grip: f32) {
        let palm = &self.physics.bodies[self.palm];
        let axis = palm.position().rotation * Vector::X;
        let states = [0, 1].map(|index| self.finger_state(index));
        let mean = (states[0].0 + states[1].0) / 2.0;
        // Half of the range already gives the full force: what a network says half-heartedly must still hold.
        let lead = FINGER_LEAD * (2.0 * grip).clamp(-1.0, 1.0);
        let mut reaction = Vector::ZERO;
        for (index, side) in [1.0, -1.0].into_iter().enumerate() {
            let (opening, speed) = states[index];
            let force = FINGER_STIFFNESS * (mean - lead - opening) - FINGER_DAMPING * speed;
            let force = axis * (side * force.clamp(-MAX_FINGER_FORCE, MAX_FINGER_FORCE));
            let finger = &mut self.physics.bodies[self.fingers[index]];
            finger.reset_forces(false);
            finger.add_force(force, true);
            reaction -= force;
        }
        self.physics.bodies[self.palm].add_force(reaction, true);
    }

    /// How far a finger stands from the middle, metres, and its speed.
    fn finger_state(&self, index: usize) -> (f32, f32) {
        let side = if index == 0 { 1.0 } else { -1.0 };
        let palm = &self.physics.bodies[self.palm];
        let finger = &self.physics.bodies[self.fingers[index]];
        let axis = palm.position().rotation * Vector::X * side;
        let opening = (finger.translation() - palm.translation()).dot(axis) - FINGER_HALF[0];
        (opening, (finger.linvel() - palm.linvel()).dot(axis))
    }

    fn tool(&self) -> Vector {
        self.physics.bodies[self.palm].position().transform_point(Vector::new(0.0, 0.0, -PALM_ABOVE_TOOL))
    }

    /// Pose of a drawn part's body.
    pub(crate) fn pose(&self, part: &Part) -> Pose {
        *self.physics.bodies[part.body].position()
    }

    /// Pose of the palm.
    pub(crate) fn palm_pose(&self) -> Pose {
        *self.physics.bodies[self.palm].position()
    }

    pub(crate) fn hand(&self) -> HandState {
        let palm = &self.physics.bodies[self.palm];
        let aperture = self.finger_state(0).0 + self.finger_state(1).0;
        HandState {
            position: self.tool().into(),
            velocity: palm.velocity_at_point(self.tool()).into(),
            rotation: angles(palm.position().rotation),
            aperture: aperture.max(0.0),
        }
    }

    /// The proprioception row, in the order of [`crate::PROPRIO_NAMES`].
    pub(crate) fn proprio(&self) -> [f32; PROPRIO_WIDTH] {
        let HandState { position: [x, y, z], velocity: [vx, vy, vz], rotation: [roll, pitch, yaw], aperture } =
            self.hand();
        [x, y, z, roll, pitch, yaw.sin(), yaw.cos(), vx, vy, vz, aperture]
    }

    pub(crate) fn privileged(&self) -> PrivilegedState {
        let objects = self.items.iter().map(|(item, handle)| {
            let pose = self.physics.bodies[*handle].position();
            let centre = match item.kind {
                Kind::Drawer { .. } => pose.transform_point(Vector::new(HANDLE.0, 0.0, HANDLE.1)),
                Kind::Knob => pose.transform_point(Vector::new(0.0, 0.0, KNOB_GRIP)),
                _ => pose.translation,
            };
            (item.name.to_owned(), centre.into(), angles(pose.rotation)[2])
        });
        PrivilegedState {
            hand: self.hand(),
            target: (self.target.into(), self.target_angles.into()),
            objects: objects.collect(),
            drawer: self.drawer(),
            knob: self.knob(),
        }
    }

    fn find(&self, name: &str) -> Option<(&Item, &Pose)> {
        let (item, handle) = self.items.iter().find(|(item, _)| item.name == name)?;
        Some((item, self.physics.bodies[*handle].position()))
    }

    fn drawer(&self) -> Option<f32> {
        let cabinet = self.physics.bodies[self.cabinet?].position();
        Some(cabinet.inverse_transform_point(self.find("drawer")?.1.translation).x)
    }

    fn knob(&self) -> Option<f32> {
        let (item, pose) = self.find("knob")?;
        Some(angles(Rotation::from_rotation_z(-item.yaw) * pose.rotation)[2])
    }

    /// Whether the task's goal holds now.
    pub(crate) fn success(&self) -> bool {
        match self.scene.definition().goal {
            Goal::Place(pairs) => pairs.iter().all(|(block, container)| self.placed(block, container)),
            Goal::OpenDrawer => self.drawer().is_some_and(|open| open > 0.06),
            Goal::TurnKnob => self.knob().is_some_and(|angle| angle > 0.8),
            Goal::StoreInDrawer(block) => {
                self.drawer().is_some_and(|open| open < 0.015) && self.placed(block, "drawer")
            }
        }
    }

    /// Whether the block lies inside the container, clear of the hand.
    fn placed(&self, block: &str, container: &str) -> bool {
        let (Some((_, block)), Some((item, container))) = (self.find(block), self.find(container)) else {
            return false;
        };
        let at = container.inverse_transform_point(block.translation);
        let inside = match item.kind {
            Kind::Bowl => at.x.hypot(at.y) < 0.045 && (0.0..0.06).contains(&at.z),
            Kind::Plate => at.x.hypot(at.y) < 0.060 && (0.0..0.045).contains(&at.z),
            Kind::Basket => at.x.abs().max(at.y.abs()) < 0.066 && (0.0..BASKET_RIM).contains(&at.z),
            Kind::Drawer { .. } => at.x.abs() < 0.046 && at.y.abs() < 0.062 && (0.0..0.05).contains(&at.z),
            Kind::Block(_) | Kind::Knob => false,
        };
        inside && (block.translation - self.tool()).length() > 0.055
    }
}

fn hand_body(at: Vector) -> RigidBodyBuilder {
    RigidBodyBuilder::dynamic().translation(at).gravity_scale(0.0).can_sleep(false)
}

/// Yaw, then pitch, then roll, each about the already turned axes.
fn rotation(angles: Vector) -> Rotation {
    Rotation::from_rotation_z(angles.z) * Rotation::from_rotation_y(angles.y) * Rotation::from_rotation_x(angles.x)
}

/// Roll, pitch and yaw of a rotation, the inverse of [`rotation`].
fn angles(rotation: Rotation) -> [f32; 3] {
    let (x, y, z, w): (f32, f32, f32, f32) = (rotation.x, rotation.y, rotation.z, rotation.w);
    let roll = (2.0 * (w * x + y * z)).atan2(1.0 - 2.0 * (x * x + y * y));
    let pitch = (2.0 * (w * y - z * x)).clamp(-1.0, 1.0).asin();
    let yaw = (2.0 * (w * z + x * y)).atan2(1.0 - 2.0 * (y * y + z * z));
    [roll, pitch, yaw]
}
