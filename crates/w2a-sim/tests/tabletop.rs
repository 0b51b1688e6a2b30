//! What every user of the simulator relies on.

use w2a_sim::{
    ACTION_WIDTH, CONTROL_HZ, Environment, Expert, IMAGE_SIZE, MAX_APERTURE, PROPRIO_WIDTH, PrivilegedState, Range,
    Scene, SimError, Split, StepOutcome, Suite, Tabletop, View, record, record_many, tasks,
};

fn scene(suite: Suite, task: usize, index: u32) -> Scene {
    Scene::new(suite, task, Split::Train, Range::Full, index).unwrap()
}

fn every_task() -> impl Iterator<Item = (Suite, usize)> {
    Suite::TABLETOP.into_iter().flat_map(|suite| (0..tasks(suite).len()).map(move |task| (suite, task)))
}

/// A bounded wild motion that differs between environments and steps.
fn wild(environment: usize, step: usize) -> [f32; ACTION_WIDTH] {
    std::array::from_fn(|entry| ((environment * 31 + entry * 7 + 1) as f32 * (step as f32 * 0.13 + 0.7)).sin() * 1.3)
}

fn roll_out(threads: usize, scenes: &[Scene], steps: usize) -> Vec<StepOutcome> {
    let mut table = Tabletop::new(threads);
    table.reset(scenes).unwrap();
    let mut all = Vec::new();
    for step in 0..steps {
        let actions: Vec<f32> = (0..scenes.len()).flat_map(|environment| wild(environment, step)).collect();
        all.extend(table.step(&actions).unwrap());
    }
    all
}

fn bits(outcomes: &[StepOutcome]) -> Vec<(Vec<u32>, Vec<u8>, bool)> {
    let one = |outcome: &StepOutcome| {
        let images = outcome.observation.cameras.iter().flat_map(|camera| camera.rgb.clone());
        (outcome.observation.proprio.iter().map(|value| value.to_bits()).collect(), images.collect(), outcome.success)
    };
    outcomes.iter().map(one).collect()
}

#[test]
fn trajectories_do_not_depend_on_threads_or_batch() {
    let scenes: Vec<Scene> = every_task().map(|(suite, task)| scene(suite, task, 3)).collect();
    let one = bits(&roll_out(1, &scenes, 12));
    assert_eq!(one, bits(&roll_out(2, &scenes, 12)));
    assert_eq!(one, bits(&roll_out(99, &scenes, 12)));
    let alone = bits(&roll_out(1, &scenes[..1], 12));
    let within: Vec<_> = one.iter().step_by(scenes.len()).cloned().collect();
    assert_eq!(alone, within);
}

#[test]
fn recordings_do_not_depend_on_threads_and_do_on_the_noise_seed() {
    let scenes = [scene(Suite::Object, 0, 0), scene(Suite::Goal, 0, 0), scene(Suite::Object, 1, 1)];
    let one = record_many(&scenes, 5, 1).unwrap();
    assert_eq!(one, record_many(&scenes, 5, 2).unwrap());
    assert_ne!(one[0].episode.actions, record(scenes[0], 6).unwrap().episode.actions);
}

#[test]
fn the_expert_solves_every_task() {
    let scenes: Vec<Scene> =
        every_task().flat_map(|(suite, task)| (1000..1003).map(move |index| scene(suite, task, index))).collect();
    let recordings = record_many(&scenes, 1, 2).unwrap();
    let failed: Vec<_> = recordings.iter().filter(|r| !r.success).map(|r| r.episode.source.as_str()).collect();
    assert!(failed.len() <= 1, "failed: {failed:?}");
    for (scene, recording) in scenes.iter().zip(&recordings) {
        let episode = &recording.episode;
        assert_eq!(episode.len(), scene.task_info().demo_steps);
        assert_eq!(episode.validate(), Ok(()));
        assert_eq!((episode.source.clone(), episode.fps), (scene.to_string(), CONTROL_HZ));
        assert_eq!(episode.instruction, scene.task_info().instruction);
        let motion = episode.actions.chunks(ACTION_WIDTH).flat_map(|action| &action[..6]);
        let largest = motion.fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest < 0.97, "{scene}: action of {largest}");
    }
}

#[test]
fn doing_nothing_solves_nothing() {
    let scenes: Vec<Scene> = every_task().map(|(suite, task)| scene(suite, task, 7)).collect();
    let mut table = Tabletop::new(2);
    table.reset(&scenes).unwrap();
    for _ in 0..20 {
        let outcomes = table.step(&vec![0.0; scenes.len() * ACTION_WIDTH]).unwrap();
        let solved: Vec<_> = outcomes.iter().zip(&scenes).filter(|(o, _)| o.success).map(|(_, s)| s).collect();
        assert!(solved.is_empty(), "solved without moving: {solved:?}");
    }
}

#[test]
fn observations_are_what_the_specification_says() {
    let mut table = Tabletop::new(1);
    let spec = table.spec().clone();
    assert_eq!((spec.action.len(), spec.proprio.len()), (ACTION_WIDTH, PROPRIO_WIDTH));
    assert_eq!(spec.proprio.last().map(String::as_str), Some("aperture"));
    let observation = table.reset(&[scene(Suite::Spatial, 2, 0)]).unwrap().remove(0);
    assert_eq!(observation.proprio.len(), PROPRIO_WIDTH);
    assert!((observation.proprio[PROPRIO_WIDTH - 1] - MAX_APERTURE).abs() < 0.002);
    for (camera, said) in observation.cameras.iter().zip(&spec.cameras) {
        assert_eq!((&camera.name, camera.height, camera.width), (&said.name, said.height, said.width));
        assert_eq!(camera.rgb.len(), IMAGE_SIZE * IMAGE_SIZE * 3);
        assert_eq!(camera.frames(), 1);
    }
    let red = |rgb: &[u8]| rgb.chunks(3).filter(|p| p[0] > 120 && p[1] < 70 && p[2] < 70).count();
    assert!(red(&observation.cameras[0].rgb) > 30, "two blocks of 4 cm should cover more than 30 pixels");
}

#[test]
fn a_nan_action_is_named() {
    let mut table = Tabletop::new(1);
    table.reset(&[scene(Suite::Object, 0, 0), scene(Suite::Object, 1, 0)]).unwrap();
    for value in [f32::NAN, f32::INFINITY] {
        let mut actions = [0.0; 2 * ACTION_WIDTH];
        actions[ACTION_WIDTH + 5] = value;
        let error = table.step(&actions).unwrap_err();
        assert!(matches!(error, SimError::ActionNotFinite { environment: 1, entry: "yaw", .. }), "{error}");
        assert!(error.to_string().contains("object/1/train/full/000000"));
    }
}

#[test]
fn wrong_action_widths_are_refused() {
    let mut table = Tabletop::new(1);
    assert!(table.step(&[]).unwrap().is_empty());
    table.reset(&[scene(Suite::Object, 0, 0)]).unwrap();
    for got in [0, 6, 8, 14] {
        let error = table.step(&vec![0.0; got]).unwrap_err();
        assert_eq!(error, SimError::ActionWidth { batch: 1, got, expected: ACTION_WIDTH, width: ACTION_WIDTH });
    }
    assert_eq!(table.privileged(1), Err(SimError::NoEnvironment { environment: 1, batch: 1 }));
    assert!(table.render(1, View::Agent, 32).is_err());
}

#[test]
fn actions_outside_the_range_are_clamped() {
    let run = |size: f32| {
        let mut table = Tabletop::new(1);
        table.reset(&[scene(Suite::Object, 0, 0)]).unwrap();
        bits(&table.step(&[size, -size, size, size, -size, size, size]).unwrap())
    };
    assert_eq!(run(1.0), run(1e30));
    assert_ne!(run(1.0), run(0.9));
}

fn red_block(state: &PrivilegedState) -> [f32; 3] {
    state.object("red block").unwrap().0
}

#[test]
fn the_hand_cannot_push_a_block_through_the_table() {
    let mut table = Tabletop::new(1);
    table.reset(&[scene(Suite::Object, 0, 0)]).unwrap();
    for step in 0..40 {
        let state = table.privileged(0).unwrap();
        let ([x, y, _], hand) = (red_block(&state), state.hand.position);
        // One finger over the middle of the block, then down with all force.
        let down = if step < 15 { 0.0 } else { -1.0 };
        table.step(&[(x + 0.05 - hand[0]) * 5.0, (y - hand[1]) * 5.0, down, 0.0, 0.0, 0.0, -1.0]).unwrap();
    }
    let state = table.privileged(0).unwrap();
    assert!(red_block(&state)[2] > 0.015 && state.hand.position[2] > 0.01, "{state:?}");
}

#[test]
fn a_grasp_holds() {
    let scene = scene(Suite::Object, 0, 2);
    let mut table = Tabletop::new(1);
    table.reset(&[scene]).unwrap();
    let mut expert = Expert::new(&scene, 0);
    for step in 0..28 {
        let action = expert.action(&table.privileged(0).unwrap(), step);
        table.step(&action).unwrap();
    }
    let offset = |state: &PrivilegedState| {
        let (block, hand) = (red_block(state), state.hand.position);
        [0, 1, 2].map(|axis| block[axis] - hand[axis])
    };
    let before = offset(&table.privileged(0).unwrap());
    for step in 0..100 {
        // Shaken by half a centimetre to each side and turned, for five seconds.
        let shake = (step as f32 * 1.3).sin() * 0.2;
        table.step(&[shake, -shake, 0.0, 0.0, 0.0, shake, 1.0]).unwrap();
    }
    let after = offset(&table.privileged(0).unwrap());
    assert!((0..3).all(|axis| (before[axis] - after[axis]).abs() < 0.012), "{before:?} {after:?}");
}

#[test]
fn wild_motions_stay_finite_and_bounded() {
    let scenes: Vec<Scene> = every_task().map(|(suite, task)| scene(suite, task, 11)).collect();
    let mut table = Tabletop::new(2);
    table.reset(&scenes).unwrap();
    for step in 0..60 {
        let mut actions: Vec<f32> = (0..scenes.len()).flat_map(|environment| wild(environment, step)).collect();
        actions.chunks_mut(ACTION_WIDTH).for_each(|action| action[2] -= 0.5);
        for outcome in table.step(&actions).unwrap() {
            assert!(outcome.observation.proprio.iter().all(|value| value.is_finite() && value.abs() < 20.0));
        }
    }
    for (environment, scene) in scenes.iter().enumerate() {
        for (name, at) in table.object_positions(environment).unwrap() {
            let near = at[0].abs() < 1.0 && at[1].abs() < 1.0 && (-0.02..1.0).contains(&at[2]);
            assert!(near, "{scene}: {name} at {at:?}");
        }
    }
}
