//! The tasks of LIBERO (arXiv 2306.03310) by their names in the benchmark, in its order. The simulator itself is another
//! program; here is what a scene's name has to say.

use std::sync::LazyLock;

use crate::Suite;
use crate::tasks::TaskInfo;

const SPATIAL: [&str; 10] = [
    "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_next_to_the_ramekin_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_on_the_cookie_box_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_on_the_ramekin_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_next_to_the_cookie_box_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_next_to_the_plate_and_place_it_on_the_plate",
    "pick_up_the_black_bowl_on_the_wooden_cabinet_and_place_it_on_the_plate",
];

const OBJECT: [&str; 10] = [
    "pick_up_the_alphabet_soup_and_place_it_in_the_basket",
    "pick_up_the_cream_cheese_and_place_it_in_the_basket",
    "pick_up_the_salad_dressing_and_place_it_in_the_basket",
    "pick_up_the_bbq_sauce_and_place_it_in_the_basket",
    "pick_up_the_ketchup_and_place_it_in_the_basket",
    "pick_up_the_tomato_sauce_and_place_it_in_the_basket",
    "pick_up_the_butter_and_place_it_in_the_basket",
    "pick_up_the_milk_and_place_it_in_the_basket",
    "pick_up_the_chocolate_pudding_and_place_it_in_the_basket",
    "pick_up_the_orange_juice_and_place_it_in_the_basket",
];

const GOAL: [&str; 10] = [
    "open_the_middle_drawer_of_the_cabinet",
    "put_the_bowl_on_the_stove",
    "put_the_wine_bottle_on_top_of_the_cabinet",
    "open_the_top_drawer_and_put_the_bowl_inside",
    "put_the_bowl_on_top_of_the_cabinet",
    "push_the_plate_to_the_front_of_the_stove",
    "put_the_cream_cheese_in_the_bowl",
    "turn_on_the_stove",
    "put_the_bowl_on_the_plate",
    "put_the_wine_bottle_on_the_rack",
];

const TEN: [&str; 10] = [
    "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
    "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
    "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
    "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
    "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
    "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
    "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate",
    "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket",
    "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
    "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
];

/// Names of tasks and the control steps that openpi's evaluation gives them.
fn suite(suite: Suite) -> (&'static [&'static str], usize) {
    match suite {
        Suite::LiberoSpatial => (&SPATIAL, 220),
        Suite::LiberoObject => (&OBJECT, 280),
        Suite::LiberoGoal => (&GOAL, 300),
        Suite::Libero10 => (&TEN, 520),
        Suite::Object | Suite::Spatial | Suite::Goal | Suite::Long => (&[], 0),
    }
}

/// The words of every task, suite by suite in the order of [`Suite::ALL`]: the name without its scene.
static WORDS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let words = |name: &&str| w2a_data::libero_instruction(name).unwrap_or_default();
    Suite::ALL.iter().map(|&of| suite(of).0.iter().map(words).collect()).collect()
});

static TASKS: LazyLock<Vec<Vec<TaskInfo>>> = LazyLock::new(|| {
    let info = |&of: &Suite| {
        let (names, horizon) = suite(of);
        let words = WORDS.get(of as usize).map(Vec::as_slice).unwrap_or_default();
        let info = |(name, words): (&&'static str, &'static String)| TaskInfo {
            name,
            instruction: words,
            horizon,
            demo_steps: horizon,
            parts: &[],
        };
        names.iter().zip(words).map(info).collect()
    };
    Suite::ALL.iter().map(info).collect()
});

/// The tasks of a suite; none if it is not LIBERO's.
pub(crate) fn tasks(suite: Suite) -> &'static [TaskInfo] {
    TASKS.get(suite as usize).map(Vec::as_slice).unwrap_or_default()
}
