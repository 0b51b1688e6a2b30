//! Writes a report of invented data, to look at the page itself: `cargo run --example sample_report -- out.html`.

use std::collections::BTreeMap;
use std::error::Error;

use w2a_report::svg::{BarChart, LinePlot, ScatterPlot};
use w2a_report::{
    Clip, ControlSteps, EpisodeResult, EvalInfo, METHODS, Picture, Report, Scenes, StripRow, human_duration,
    outcome_sentence, side_by_side, spaced, success_chart, success_table, task_table, time_chart,
};

/// A repeatable number in `[0, 1)` from three numbers; enough for invented data.
fn noise(a: usize, b: usize, c: usize) -> f64 {
    let mut bits = (a as u64) << 42 ^ (b as u64) << 21 ^ c as u64;
    for _ in 0..3 {
        bits = (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn episodes() -> Vec<EpisodeResult> {
    let tasks = ["object/pick_blue", "object/pick_green", "object/pick_red"];
    let inside = [0.97, 0.97, 0.95, 0.9, 0.96, 0.9, 0.97, 0.98, 0.23, 0.98, 0.96];
    let outside = [0.13, 0.16, 0.08, 0.11, 0.14, 0.05, 0.24, 0.31, 0.08, 0.33, 0.94];
    let mut results = Vec::new();
    for (index, (method, _)) in METHODS.iter().enumerate() {
        let seeds = if method.starts_with("base") { 1 } else { 3 };
        for (seed, scene) in (0..seeds).flat_map(|seed| (0..240).map(move |scene| (seed, scene))) {
            let in_support = scene % 2 == 0;
            let chance = if in_support { inside[index] } else { outside[index] };
            // Mostly the scene decides, so that methods and seeds agree on hard scenes as they do in reality.
            let draw = 0.7 * noise(1, scene, 0) + 0.3 * noise(2 + index, scene, seed);
            results.push(EpisodeResult {
                method: (*method).to_owned(),
                task: tasks[scene % 3].to_owned(),
                suite: "object".to_owned(),
                scene: format!("eval/{scene}"),
                seed: seed as u64,
                in_support,
                success: draw < chance,
                steps: 45 + (35.0 * noise(9 + index, scene, seed)) as u32,
                failure: (index == 3 && scene == 7 && seed == 1).then(|| "worker lost".to_owned()),
            });
        }
    }
    results
}

/// A 64 x 64 toy scene: a block carried to a bowl; imagined frames are blurred by `blur` pixels.
fn frame(time: f64, blur: f64) -> Result<Picture, Box<dyn Error>> {
    let (block_x, block_y) = (14.0 + 30.0 * time, 44.0 - 24.0 * (std::f64::consts::PI * time).sin());
    let mut rgb = Vec::with_capacity(64 * 64 * 3);
    for (y, x) in (0..64).flat_map(|y| (0..64).map(move |x| (f64::from(y), f64::from(x)))) {
        let soft = |distance: f64| (0.5 - distance / (1.0 + blur)).clamp(0.0, 1.0);
        let mix = |under: [f64; 3], over: [f64; 3], alpha: f64| {
            [0, 1, 2].map(|channel| under[channel] * (1.0 - alpha) + over[channel] * alpha)
        };
        let table = [206.0 - y * 0.5, 196.0 - y * 0.5, 178.0 - y * 0.4];
        let bowl = mix(table, [92.0, 120.0, 150.0], soft(((x - 44.0).hypot((y - 46.0) * 1.6)) - 10.0));
        let block = mix(bowl, [196.0, 62.0, 52.0], soft((x - block_x).abs().max((y - block_y).abs()) - 5.0));
        let gripper = mix(block, [70.0, 74.0, 80.0], soft(((x - block_x).abs() - 2.0).max(y - block_y + 7.0)));
        rgb.extend(gripper.map(|value| value as u8));
    }
    Ok(Picture::from_rgb(64, 64, &rgb)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os().nth(1).unwrap_or_else(|| "sample_report.html".into());
    let steps = ControlSteps { demonstration: 64, imagination: 64 };
    let info = EvalInfo::build(&episodes(), "w2a", "base", 412.0, &BTreeMap::new(), steps)?;

    let loss = |seed: usize, floor: f64, speed: f64| {
        let value = move |step: usize| floor + (-(step as f64) / speed).exp() + 0.04 * (noise(seed, step, 3) - 0.5);
        (0..=60).map(|point| (point as f64 * 100.0, value(point * 100))).collect::<Vec<_>>()
    };
    let training = LinePlot::new("World model", "step", "flow-matching loss")
        .log_y()
        .series("training", &loss(1, 0.06, 700.0))
        .series("held out", &loss(2, 0.09, 750.0))
        .render();
    let mean = loss(3, 0.2, 1500.0).into_iter().map(|(step, value)| (step, 1.15 - value)).collect::<Vec<_>>();
    let band = mean.iter().map(|(step, value)| (*step, value - 0.05, value + 0.05)).collect::<Vec<_>>();
    let cosine = LinePlot::new("Stage 2", "round", "cosine to the imagined latents")
        .include_y(0.0, 1.0)
        .series("World2Act", &mean)
        .band(&band)
        .series("paper's InfoNCE", &loss(4, 0.55, 2500.0).iter().map(|(x, y)| (*x, 1.4 - y)).collect::<Vec<_>>())
        .render();
    let mut scatter = ScatterPlot::new("", "mean cosine of executed and imagined latents", "success, %");
    for (index, (name, method)) in info.ordered_methods().into_iter().enumerate().skip(3).take(6) {
        let success = method.all.pc_success.unwrap_or(f64::NAN);
        let group = if name.starts_with("w2a") { "World2Act" } else { "baselines" };
        scatter = scatter.point(group, name, 0.4 + success / 200.0 + 0.1 * noise(5, index, 0), success);
    }
    let executed = (0..24).map(|time| frame(f64::from(time) / 23.0, 0.0)).collect::<Result<Vec<_>, _>>()?;
    let imagined = (0..24).map(|time| frame(f64::from(time) / 23.0, 3.0)).collect::<Result<Vec<_>, _>>()?;
    let pair = side_by_side(&executed, &imagined, 2)?;
    let clip = |title: &str| Clip {
        title: title.to_owned(),
        labels: vec!["Executed".to_owned(), "Imagined".to_owned()],
        frames: pair.clone(),
        frames_per_s: 10,
    };
    let strip = |label: &str, frames: &[Picture]| StripRow { label: label.to_owned(), frames: spaced(frames, 10) };
    let stages =
        [("demonstrations", 31.0), ("world model", 302.0), ("base policy", 96.0), ("stage 1", 58.0), ("stage 2", 74.0)];
    let durations = stages
        .iter()
        .fold(BarChart::new(""), |chart, (name, seconds)| chart.bar(name, *seconds, &human_duration(*seconds)));

    Report::new("World2Act on the embedded benchmark", &outcome_sentence(&info, "base"))
        .kicker("**Sample page with invented data.** No robot, policy or world model was run.")
        .hero(
            &success_chart(&info, "base", Scenes::All, "Success on held-out scenes").render(),
            "Dot: share of episodes solved. Bar: 95 % interval. Dashed line and band: the base policy and its interval. \
             Hollow dots are controls and bounds.",
        )
        .section("What was done")
        .prose(
            "Demonstrations cover one half of the table; the evaluation covers all of it. A world model saw unlabelled \
             video of the whole table, imagined how each new scene should unfold, and the policy was corrected towards \
             what was imagined. The base policy itself stays frozen.\n\nRun it again with `world2act demo --seed 0`.",
        )
        .note("**One limit.** Three seeds on 240 scenes: read the spread over seeds before you believe a point.")
        .section("Results")
        .plots(&[
            (success_chart(&info, "base", Scenes::InSupport, "Where demonstrations lie").render(), ""),
            (success_chart(&info, "base", Scenes::OutOfSupport, "Where there are none").render(), ""),
        ])
        .table(
            &success_table(&info, "base"),
            "Small numbers are 95 % Wilson intervals that count repeated scenes and seeds once. Won / lost: episodes \
             solved that the base policy failed, and the other way round. p: exact McNemar test by scene.",
        )
        .heading("Over time")
        .plot(&time_chart(&info, "base").render(), "Share of episodes solved within so many control steps.")
        .heading("By task")
        .table(&task_table(&info, &["base", "dreamgen", "w2a"]), "")
        .section("Learning")
        .plots(&[
            (training, "Both losses level off, so more steps would not help."),
            (cosine, "Mean of three seeds; the band is their range."),
        ])
        .section("Imagined and executed")
        .filmstrip(
            &[strip("Imagined", &imagined), strip("Executed", &executed)],
            "“put the red block into the bowl”, one frame in ten control steps.",
        )?
        .clips(&[clip("Red block, scene 12"), clip("Red block, scene 40"), clip("Red block, scene 77")], "")?
        .section("Does a higher cosine mean success?")
        .plot(&scatter.render(), "Rank correlation over methods is computed from these points.")
        .section("How to repeat it")
        .plot(&durations.render(), "Time per stage.")
        .facts(&[
            ("Version", "0.1.0".to_owned()),
            ("Commit", "`0123456789-dirty`".to_owned()),
            ("Command", "`world2act demo --seed 0 --threads 2`".to_owned()),
            ("Seed", "0".to_owned()),
            ("Machine", "sample processor, 2 cores, 4 GiB".to_owned()),
        ])
        .folded("Configuration", "[world]\nsteps = 6000\n\n[posttrain]\nobjective = \"cosine\"\ngain = 0.15\n")
        .save(out)?;
    Ok(())
}
