//! The tasks: what is said, what lies on the table, what has to hold in the end.

use crate::Suite;
use crate::libero;

/// What a user needs to know about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Short name, unique over all suites, fit for file names.
    pub name: &'static str,
    /// What the robot is told.
    pub instruction: &'static str,
    /// Control steps after which an episode counts as failed.
    pub horizon: usize,
    /// Control steps of every demonstration; chunk `t` of two demonstrations of a task is the same phase. LIBERO's differ in
    /// length: for those it is the horizon.
    pub demo_steps: usize,
    /// The atomic prompts of a task of several grasp cycles; empty for a task of one.
    pub(crate) parts: &'static [&'static str],
}

impl TaskInfo {
    /// What the robot is told of each grasp cycle, in order: the instruction itself where there is one cycle only.
    pub fn skills(&self) -> &[&'static str] {
        if self.parts.is_empty() { std::slice::from_ref(&self.instruction) } else { self.parts }
    }
}

/// What has to hold for success; names are those of the scene's items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Each `(block, container)`: the block lies in or on the container, and the gripper has let go.
    Place(&'static [(&'static str, &'static str)]),
    /// The drawer is pulled out far enough.
    OpenDrawer,
    /// The knob is turned far enough counter-clockwise.
    TurnKnob,
    /// The block lies in the drawer and the drawer is shut.
    StoreInDrawer(&'static str),
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) info: TaskInfo,
    pub(crate) goal: Goal,
    /// Items whose positions matter for solving the task.
    pub(crate) relevant: &'static [&'static str],
}

const SHORT_STEPS: usize = 64;
const LONG_STEPS: usize = 128;

const fn task(
    name: &'static str,
    instruction: &'static str,
    demo_steps: usize,
    goal: Goal,
    relevant: &'static [&'static str],
) -> Task {
    // A quarter more time than the expert takes: room for a correction, not for a second attempt.
    let horizon = demo_steps + demo_steps / 4;
    Task { info: TaskInfo { name, instruction, horizon, demo_steps, parts: &[] }, goal, relevant }
}

/// A task of several grasp cycles.
const fn in_parts(mut task: Task, parts: &'static [&'static str]) -> Task {
    task.info.parts = parts;
    task
}

const fn place(
    name: &'static str,
    instruction: &'static str,
    demo_steps: usize,
    pairs: &'static [(&'static str, &'static str)],
    relevant: &'static [&'static str],
) -> Task {
    task(name, instruction, demo_steps, Goal::Place(pairs), relevant)
}

static OBJECT: [Task; 4] = [
    place(
        "red_block_basket",
        "pick up the red block and place it in the basket",
        SHORT_STEPS,
        &[("red block", "basket")],
        &["red block", "basket"],
    ),
    place(
        "green_block_basket",
        "pick up the green block and place it in the basket",
        SHORT_STEPS,
        &[("green block", "basket")],
        &["green block", "basket"],
    ),
    place(
        "blue_block_basket",
        "pick up the blue block and place it in the basket",
        SHORT_STEPS,
        &[("blue block", "basket")],
        &["blue block", "basket"],
    ),
    place(
        "yellow_block_basket",
        "pick up the yellow block and place it in the basket",
        SHORT_STEPS,
        &[("yellow block", "basket")],
        &["yellow block", "basket"],
    ),
];

static SPATIAL: [Task; 3] = [
    place(
        "block_next_to_plate",
        "pick up the block next to the plate and place it on the plate",
        SHORT_STEPS,
        &[("target block", "plate")],
        &["target block", "plate"],
    ),
    place(
        "block_next_to_bowl",
        "pick up the block next to the bowl and place it on the plate",
        SHORT_STEPS,
        &[("target block", "plate")],
        &["target block", "plate", "bowl"],
    ),
    place(
        "block_between",
        "pick up the block between the plate and the bowl and place it on the plate",
        SHORT_STEPS,
        &[("target block", "plate")],
        &["target block", "plate", "bowl"],
    ),
];

static GOAL: [Task; 4] = [
    task("open_drawer", "open the drawer", SHORT_STEPS, Goal::OpenDrawer, &["drawer"]),
    task("turn_knob", "turn the knob", SHORT_STEPS, Goal::TurnKnob, &["knob"]),
    place(
        "block_in_bowl",
        "put the red block in the bowl",
        SHORT_STEPS,
        &[("red block", "bowl")],
        &["red block", "bowl"],
    ),
    place(
        "block_on_plate",
        "put the red block on the plate",
        SHORT_STEPS,
        &[("red block", "plate")],
        &["red block", "plate"],
    ),
];

static LONG: [Task; 3] = [
    in_parts(
        place(
            "red_bowl_blue_plate",
            "put the red block in the bowl, then put the blue block on the plate",
            LONG_STEPS,
            &[("red block", "bowl"), ("blue block", "plate")],
            &["red block", "bowl", "blue block", "plate"],
        ),
        &["put the red block in the bowl", "put the blue block on the plate"],
    ),
    in_parts(
        place(
            "red_and_blue_basket",
            "put the red block and then the blue block in the basket",
            LONG_STEPS,
            &[("red block", "basket"), ("blue block", "basket")],
            &["red block", "blue block", "basket"],
        ),
        &["put the red block in the basket", "put the blue block in the basket"],
    ),
    in_parts(
        task(
            "block_drawer_close",
            "put the red block in the drawer and close it",
            LONG_STEPS,
            Goal::StoreInDrawer("red block"),
            &["red block", "drawer"],
        ),
        &["put the red block in the drawer", "close the drawer"],
    ),
];

pub(crate) fn suite_tasks(suite: Suite) -> &'static [Task] {
    match suite {
        Suite::Object => &OBJECT,
        Suite::Spatial => &SPATIAL,
        Suite::Goal => &GOAL,
        Suite::Long => &LONG,
        Suite::LiberoSpatial | Suite::LiberoObject | Suite::LiberoGoal | Suite::Libero10 => &[],
    }
}

/// What a scene of another simulator is on the tabletop.
pub(crate) static NOTHING: Task = task("nothing", "", SHORT_STEPS, Goal::Place(&[]), &[]);

/// The tasks of any suite.
pub(crate) fn infos(suite: Suite) -> Vec<&'static TaskInfo> {
    if suite.is_libero() {
        return libero::tasks(suite).iter().collect();
    }
    suite_tasks(suite).iter().map(|task| &task.info).collect()
}

/// The tasks of a suite; a [`crate::Scene`]'s task is an index into this list.
pub fn tasks(suite: Suite) -> Vec<TaskInfo> {
    infos(suite).into_iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::{Suite, tasks};

    #[test]
    fn every_task_has_a_prompt_for_each_of_its_grasp_cycles() {
        for suite in Suite::TABLETOP {
            for task in tasks(suite) {
                let cycles = task.demo_steps / super::SHORT_STEPS;
                assert_eq!(task.skills().len(), cycles, "{}", task.name);
                assert_eq!(task.skills() == [task.instruction], cycles == 1, "{}", task.name);
            }
        }
    }
}
