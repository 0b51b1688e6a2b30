//! What lies where at the start of an episode: drawn from the scene's own random stream.

use rand_chacha::ChaCha8Rng;
use w2a_data::stream;

use crate::rng::{below, normal, uniform};
use crate::{Range, Scene, Suite};

/// Scenes are the same in every run: a scene id names one start state, whatever a run's own seed is.
const SIM_SEED: u64 = 0x7ab1_e70b;

/// Centres of things lie in `[-WORKSPACE, WORKSPACE]` in x and y, metres.
pub(crate) const WORKSPACE: f32 = 0.17;

/// Narrow scenes have everything that matters for the task at `y` below this, metres: about two thirds of the workspace,
/// so that two things lie there together in about two of five full-range scenes.
pub(crate) const NARROW_EDGE: f32 = 0.05;

/// Where the cabinet's centre stands; its drawer opens towards +x.
pub(crate) const CABINET_X: f32 = -0.225;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Block(Colour),
    Bowl,
    Plate,
    Basket,
    /// A cabinet with one drawer, pulled out by `open` metres.
    Drawer {
        open: f32,
    },
    Knob,
}

impl Kind {
    /// Radius of the footprint, metres.
    fn radius(self) -> f32 {
        match self {
            Self::Block(_) => 0.028,
            Self::Bowl => 0.058,
            Self::Plate => 0.070,
            Self::Basket => 0.080,
            Self::Drawer { .. } => 0.0, // has its own rule
            Self::Knob => 0.034,
        }
    }

    /// Whether the gripper comes down around it.
    fn grasped(self) -> bool {
        matches!(self, Self::Block(_) | Self::Knob)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) yaw: f32,
    /// Whether its position matters for solving the task.
    pub(crate) relevant: bool,
}

/// The start state of a scene.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) items: Vec<Item>,
    /// Where the gripper starts (its tool centre), metres.
    pub(crate) gripper: [f32; 3],
}

/// Draws before a crowded layout is taken as it is; a test holds that this does not happen.
const ATTEMPTS: usize = 20_000;

impl Layout {
    /// The layout that a scene id names.
    pub(crate) fn sample(scene: &Scene) -> Self {
        Self::sample_counted(scene).0
    }

    /// The layout and the number of draws it took.
    fn sample_counted(scene: &Scene) -> (Self, usize) {
        let mut rng = stream(SIM_SEED, &format!("sim/scene/{scene}"));
        let gripper = [0.015 * normal(&mut rng), 0.015 * normal(&mut rng), 0.17 + 0.006 * normal(&mut rng)];
        let mut attempt = 1;
        loop {
            let items = draw(scene, &mut rng);
            if attempt == ATTEMPTS || acceptable(scene, &items) {
                return (Self { items, gripper }, attempt);
            }
            attempt += 1;
        }
    }
}

fn draw(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<Item> {
    let relevant = scene.definition().relevant;
    let mut put = |name: &'static str, kind: Kind| {
        let relevant = relevant.contains(&name);
        let high = if relevant && scene.range() == Range::Narrow { NARROW_EDGE - 0.005 } else { WORKSPACE };
        let x = match kind {
            Kind::Drawer { .. } => CABINET_X,
            Kind::Knob => uniform(rng, 0.06, WORKSPACE),
            _ => uniform(rng, -WORKSPACE, WORKSPACE),
        };
        let yaw = match kind {
            Kind::Block(_) | Kind::Knob => uniform(rng, -0.25, 0.25),
            Kind::Basket => uniform(rng, -0.1, 0.1),
            _ => 0.0,
        };
        Item { name, kind, x, y: uniform(rng, -WORKSPACE, high), yaw, relevant }
    };
    let red = ("red block", Kind::Block(Colour::Red));
    let blue = ("blue block", Kind::Block(Colour::Blue));
    let green = ("green block", Kind::Block(Colour::Green));
    let yellow = ("yellow block", Kind::Block(Colour::Yellow));
    let (bowl, plate, basket) = (("bowl", Kind::Bowl), ("plate", Kind::Plate), ("basket", Kind::Basket));
    let shut = ("drawer", Kind::Drawer { open: 0.0 });
    let open = ("drawer", Kind::Drawer { open: 0.09 });
    let things: Vec<(&'static str, Kind)> = match (scene.suite(), scene.task()) {
        (Suite::Object, _) => vec![basket, red, green, blue, yellow],
        (Suite::Spatial, _) => {
            let block = Kind::Block(Colour::Red);
            vec![plate, bowl, ("target block", block), ("other block", block)]
        }
        (Suite::Goal, _) => vec![shut, ("knob", Kind::Knob), plate, bowl, red],
        (Suite::Long, 0) => vec![plate, bowl, red, blue],
        (Suite::Long, 1) => vec![basket, red, blue, green],
        (Suite::Long, _) => vec![open, red, blue],
        // Of another simulator.
        (Suite::LiberoSpatial | Suite::LiberoObject | Suite::LiberoGoal | Suite::Libero10, _) => Vec::new(),
    };
    let mut items: Vec<Item> = things.into_iter().map(|(name, kind)| put(name, kind)).collect();
    if scene.suite() == Suite::Spatial {
        relate(scene.task(), &mut items, rng);
    }
    items
}

/// Puts the target block where the task's instruction says, and the other block at one of the two other places.
fn relate(task: usize, items: &mut [Item], rng: &mut ChaCha8Rng) {
    let (plate, bowl) = ((items[0].x, items[0].y), (items[1].x, items[1].y));
    let other = (task + 1 + below(rng, 2)) % 3;
    for (item, place) in [(2, task), (3, other)] {
        let angle = uniform(rng, 0.0, std::f32::consts::TAU);
        let mut beside = |(x, y): (f32, f32), low, high| {
            let distance = uniform(rng, low, high);
            (x + distance * angle.cos(), y + distance * angle.sin())
        };
        (items[item].x, items[item].y) = match place {
            0 => beside(plate, 0.11, 0.14),
            1 => beside(bowl, 0.10, 0.13),
            _ => beside(((plate.0 + bowl.0) / 2.0, (plate.1 + bowl.1) / 2.0), 0.0, 0.012),
        };
    }
}

fn acceptable(scene: &Scene, items: &[Item]) -> bool {
    let narrow = scene.range() == Range::Narrow;
    for (index, a) in items.iter().enumerate() {
        if a.x > WORKSPACE || (a.x < -WORKSPACE && a.x != CABINET_X) || a.y.abs() > WORKSPACE {
            return false;
        }
        if narrow && a.relevant && a.y >= NARROW_EDGE {
            return false;
        }
        if items[..index].iter().any(|b| !apart(a, b)) {
            return false;
        }
    }
    scene.suite() != Suite::Spatial || told_apart(items)
}

/// Whether the block that is next to one thing is clearly nearer to it than the other block is.
fn told_apart(items: &[Item]) -> bool {
    let distance = |a: &Item, b: &Item| (a.x - b.x).hypot(a.y - b.y);
    let [plate, bowl, target, other] = items else { return true };
    distance(plate, bowl) > 0.21
        && [plate, bowl].into_iter().all(|thing| {
            let (near, far) = (distance(thing, target), distance(thing, other));
            (near - far).abs() > 0.03 || near.min(far) > 0.15
        })
}

/// Whether two things leave room for the open fingers, which come down on both sides in x of what they grasp.
fn apart(a: &Item, b: &Item) -> bool {
    let (dx, dy) = ((a.x - b.x).abs(), (a.y - b.y).abs());
    for (drawer, thing) in [(a, b), (b, a)] {
        if let Kind::Drawer { .. } = drawer.kind {
            let margin = thing.kind.radius() + if thing.kind.grasped() { 0.045 } else { 0.01 };
            // The strip in front of the cabinet belongs to the drawer, its handle and the hand that pulls it.
            return thing.x > 0.03 + thing.kind.radius() || dy > 0.085 + margin;
        }
    }
    let reach = a.kind.radius() + b.kind.radius();
    if a.kind.grasped() || b.kind.grasped() {
        dx > reach + 0.040 || dy > reach + 0.012
    } else {
        dx.hypot(dy) > reach + 0.008
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::tasks::suite_tasks;

    fn each_task(mut check: impl FnMut(Suite, usize)) {
        for suite in Suite::TABLETOP {
            for task in 0..suite_tasks(suite).len() {
                check(suite, task);
            }
        }
    }

    #[test]
    fn every_scene_finds_room() {
        each_task(|suite, task| {
            for range in [Range::Narrow, Range::Full] {
                for index in 0..100 {
                    let scene = Scene::new(suite, task, Split::Train, range, index).unwrap();
                    let (layout, draws) = Layout::sample_counted(&scene);
                    assert!(draws < ATTEMPTS, "{scene} found no room");
                    for name in scene.definition().relevant {
                        let item = layout.items.iter().find(|item| item.name == *name);
                        assert!(item.is_some_and(|item| item.relevant), "{scene} lacks {name}");
                    }
                    if range == Range::Narrow {
                        assert!(layout.items.iter().all(|item| !item.relevant || item.y < NARROW_EDGE), "{scene}");
                    }
                }
            }
        });
    }

    #[test]
    fn splits_share_no_scene() {
        let mut seen = std::collections::HashMap::new();
        each_task(|suite, task| {
            for (&split, range) in
                Split::ALL.iter().flat_map(|split| [Range::Narrow, Range::Full].map(|range| (split, range)))
            {
                for index in 0..50 {
                    let scene = Scene::new(suite, task, split, range, index).unwrap();
                    let layout = Layout::sample(&scene);
                    let bits: Vec<u32> =
                        layout.items.iter().flat_map(|item| [item.x, item.y, item.yaw]).map(f32::to_bits).collect();
                    let twin = seen.insert(bits, scene);
                    assert!(twin.is_none(), "{scene} starts like {twin:?}");
                }
            }
        });
    }

    #[test]
    fn support_follows_the_relevant_things() {
        let scenes = (0..200).map(|index| Scene::new(Suite::Object, 0, Split::Eval, Range::Full, index).unwrap());
        let inside = scenes.filter(Scene::in_support).count();
        assert!((50..120).contains(&inside), "{inside} of 200 full-range scenes are in support");
    }
}
