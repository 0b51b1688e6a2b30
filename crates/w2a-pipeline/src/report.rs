//! The page a run leaves, and the lines it prints.

use std::path::PathBuf;

use w2a_posttrain::{Form, GainChoice, Record, Rollout};
use w2a_report::svg::{BarChart, LinePlot, ScatterPlot};
use w2a_report::{
    Clip, EvalInfo, Picture, Report, Scenes, StripRow, curve, human_duration, method_label, outcome_sentence,
    read_metrics, side_by_side, spaced, stats, success_chart, success_table, task_table, time_chart,
};
use w2a_sim::{Range, Scene, Split};
use w2a_world::{GridVideo, ModelId};

use crate::PipelineError;
use crate::arms::Arm;
use crate::clips::ClipList;
use crate::context::{Context, load_json, model};
use crate::data::scenes;
use crate::environment::{Described, ENVIRONMENT};
use crate::eval::{AGAINST_BASE_WORLD, HEADLINE, NARROW_INFO};
use crate::horizon::Horizon;
use crate::posttrain::{ImaginationReport, eval_scenes};
use crate::run_world::{self, WorldKind};
use crate::stage2::{Shared, gain_path};
use crate::world::{self, Dreamer, Imaginer};

const BASE: &str = "base";

pub(crate) fn run(context: &mut Context) -> Result<PathBuf, PipelineError> {
    let info = EvalInfo::load(context.path("eval_info.json"))?;
    let config = &context.config;
    let title = if config.is_libero() { "World2Act on LIBERO" } else { "World2Act on the embedded benchmark" };
    let by_support = [
        (success_chart(&info, BASE, Scenes::InSupport, "Where demonstrations lie").render(), ""),
        (success_chart(&info, BASE, Scenes::OutOfSupport, "Where there are none").render(), ""),
    ];
    let report = Report::new(title, &outcome_sentence(&info, BASE))
        .kicker(
            "Post-training a frozen policy from a world model's imagination, without reward, labels or decoded pixels.",
        )
        .hero(
            &success_chart(&info, BASE, Scenes::All, "Success on held-out scenes").render(),
            "Dot: share of episodes solved. Bar: 95 % interval. Dashed line and band: the frozen base policy and its \
             interval. Hollow dots are controls and bounds.",
        )
        .section("What was done")
        .prose(&if config.is_libero() { libero_in_words(context) } else { what_was_done(context)? });
    let notes =
        [stand_ins_note(context)?, backbones_note(context)?, paper_note(context, &info)?, skills_note(context)?];
    let report = notes.into_iter().flatten().fold(report, |report, note| report.note(&note));
    let report = report
        .section("Results")
        .plots(if config.is_libero() { &[] } else { &by_support })
        .table(
            &success_table(&info, BASE),
            "Small numbers are 95 % Wilson intervals that count repeated scenes and seeds once. Won / lost: episodes \
             solved that the base policy failed, and the other way round. p: exact McNemar test by scene. The third column \
             counts what was solved while there was imagination, out of the same episodes.",
        )
        .heading("Over time")
        .plot(
            &time_chart(&info, BASE).render(),
            "Share of all held-out scenes solved within so many control steps, over all seeds. Past the marked length of the \
             imagination there is nothing a policy could have been pulled towards. Dashed: controls and bounds.",
        )
        .heading("By task")
        .table(&task_table(&info, &[BASE, "dreamgen", "w2a_base_wm", HEADLINE, "base_wide_labels"]), "")
        .section("Learning")
        .plots(&learning(context)?)
        .section("Imagined and executed")
        .prose(&imagination_in_words(context)?)
        .plots(&horizon_plots(context)?);
    let report = films(context, report)?
        .section("Choosing the scale without labels")
        .prose(
            "Every trained arm has one scale: the gain of the residual step, or the weight of a fine-tuned policy against the \
             base. It is chosen where the executed video, encoded by the world model, lies nearest to the imagination, on \
             scenes that serve for nothing else. Success on those scenes is drawn to judge the rule; the rule does not see it.",
        )
        .plots(&gain_plots(context)?)
        .section("Does a higher cosine mean success?")
        .plot(
            &cosine_plot(context)?.render(),
            "One point per round of rollouts while post-training: mean cosine of the bent action chunks to the imagined \
             latents, and the success of those rollouts.",
        )
        .section("How to repeat it")
        .plot(&durations(context).render(), "Time per stage.")
        .facts(&facts(context))
        .folded("Configuration", &toml::to_string(config).unwrap_or_default());
    let path = context.path("report.html");
    report.save(&path)?;
    Ok(path)
}

/// The lines printed at the end of a run.
pub(crate) fn summary(context: &Context) -> Result<String, PipelineError> {
    let path = context.path("eval_info.json");
    if !path.exists() {
        return Ok(format!("Written to {}.", context.out.display()));
    }
    let info = EvalInfo::load(path)?;
    let mut out = format!("{}\n\n", outcome_sentence(&info, BASE));
    if let Some(start) = Start::of(context)?.filter(|start| start.imagined[0] < FAINT) {
        out += &format!("{}\n\n", start.in_words().replace("**", ""));
    }
    out += &format!(
        "{:<18} {:>8}  {:<15} {:>7} {:>7}  {}\n",
        "method", "success", "95 %", "inside", "outside", "won/lost"
    );
    for (name, method) in info.ordered_methods() {
        let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1}"));
        let interval = method.all.ci95.map_or(String::new(), |[low, high]| format!("[{low:.1}, {high:.1}]"));
        let paired =
            method.paired_vs_base.as_ref().map_or(String::new(), |paired| format!("{}/{}", paired.won, paired.lost));
        out += &format!(
            "{name:<18} {:>8}  {interval:<15} {:>7} {:>7}  {paired}\n",
            percent(method.all.pc_success),
            percent(method.in_support.pc_success),
            percent(method.out_of_support.pc_success)
        );
    }
    Ok(out)
}

/// What a run in LIBERO was.
fn libero_in_words(context: &Context) -> String {
    let (config, libero) = (&context.config, &context.config.env.libero);
    let data = &config.data;
    format!(
        "Suites: {}; tasks: {}. Of each task {} demonstrations have actions; they train {}both adapters. {} imagined how each \
         of {} post-training scenes per task should unfold, which the simulator draws by their seeds, {} noise of the arm at the start. All numbers are of {} of the benchmark's 50 fixed \
         initial states of each task, on which nothing was trained or chosen. The base policy itself stays frozen.\n\nAn \
         episode ends after {} steps of the simulator at 20 a second. The policy decides {} of them at a time, from two images \
         of {} pixels a side, rendered with {} a side and flipped by `{}`, and the state of the hand; {} steps with an open \
         gripper come first; the controller is {}. Meshes that are only looked at are drawn on a grid of {} mm (0: as they \
         are), with {} samples a pixel (0: one).",
        data.suites.join(", "),
        config.tasks().map_or(0, |tasks| tasks.len()),
        data.labelled,
        if config.policy.is_foreign() { "" } else { "the base policy and " },
        match config.world.kind {
            WorldKind::Mini =>
                format!("A world model saw these and {} further ones as action-free video, and", data.videos),
            WorldKind::Cosmos => "Cosmos-Predict2".to_owned(),
        },
        data.posttrain_scenes,
        if libero.arm_noise { "with" } else { "without" },
        config.eval.scenes,
        libero.max_steps,
        config.chunk_len() * libero.stride,
        libero.side,
        libero.render,
        serde_json::to_value(libero.flip).ok().and_then(|flip| flip.as_str().map(str::to_owned)).unwrap_or_default(),
        libero.settle_steps,
        libero.controller,
        libero.mesh_cell_mm,
        libero.samples,
    )
}

/// What LIBERO's assets say of themselves, where they say something.
fn stand_ins_note(context: &Context) -> Result<Option<String>, PipelineError> {
    if !context.config.is_libero() {
        return Ok(None);
    }
    let described: Described = load_json(&context.path(ENVIRONMENT), "eval")?;
    let of = |name: &str| described.versions.get(name).map_or("unknown", String::as_str);
    Ok(Some(format!(
        "**The simulator**: LIBERO's physics and tasks (hf-libero {}, robosuite {}, MuJoCo {}); its assets are “{}”. Where some \
         are stand-ins, or meshes are drawn more coarsely than they are, success compares within this table and not with \
         published numbers.",
        of("hf-libero"),
        of("robosuite"),
        of("mujoco"),
        of("assets"),
    )))
}

fn what_was_done(context: &Context) -> Result<String, PipelineError> {
    let narrow = EvalInfo::load(context.path(NARROW_INFO))?;
    let data = &context.config.data;
    let tasks = context.config.tasks().map_or(0, |tasks| tasks.len());
    let near = |name: &str| narrow.methods.get(name).and_then(|method| method.all.pc_success).unwrap_or(f64::NAN);
    Ok(format!(
        "Suites: {}; tasks: {tasks}. Labelled demonstrations ({} per task) cover a part of the table; the evaluation covers all \
         of it. {} imagined how each of {} post-training scenes per task should unfold; {} pulled towards what was imagined. The base policy itself stays \
         frozen.\n\nWithout the shift, on scenes where demonstrations lie, the base policy solves {:.1} %, and World2Act \
         {:.1} %.{}",
        data.suites.join(", "),
        data.labelled,
        match context.config.world.kind {
            WorldKind::Mini =>
                format!("A world model saw {} action-free videos per task of the whole table and", data.videos),
            WorldKind::Cosmos => "Cosmos-Predict2".to_owned(),
        },
        data.posttrain_scenes,
        match context.config.posttrain.stage2.form {
            Form::Latent | Form::Action => "a residual policy was",
            Form::Lora => "low-rank changes of the policy's layers were",
        },
        near(BASE),
        near(HEADLINE),
        skills_in_words(context)?
    ))
}

/// How videos were cut into skills, and how an episode is imagined from them; nothing without skills.
fn skills_in_words(context: &Context) -> Result<String, PipelineError> {
    if !context.config.world.skills {
        return Ok(String::new());
    }
    let clips: ClipList = load_json(&context.path(&format!("{}_clips.json", Imaginer::Main.corpus())), "world")?;
    let kept = clips.videos.saturating_sub(clips.dropped.len());
    let mut plans = Vec::new();
    for scene in scenes(&context.config, Split::Eval, Range::Full, 0, 1)? {
        let plan = clips.plan(&scene, context.config.chunks())?;
        plans.extend(plan.iter().map(|skill| format!("“{}” {}", skill.prompt, skill.chunks)));
    }
    let mut words = format!(
        "\n\nThe world model knows skills (Skill-WM): the gripper's aperture cut {kept} of {} videos ({:.1} %) into as many \
         grasp cycles as their task has atomic prompts, {} clips in all. It imagines prompt by prompt, each from the last \
         frame of the one before, for as many chunks as the skill took in the videos: {}.",
        clips.videos,
        100.0 * kept as f64 / clips.videos.max(1) as f64,
        clips.clips.len(),
        plans.join(", ")
    );
    if Arm::BaseWorld.takes_part(&context.config) {
        words += &format!(
            " The one it is compared with (Base-WM) is the same network, trained for as many updates on windows of {} chunks \
             of the same videos under the whole instruction, which it is given again for every window it imagines.",
            context.config.world.model.flow.chunks
        );
    }
    Ok(words)
}

fn imagination_in_words(context: &Context) -> Result<String, PipelineError> {
    let path = context.path("posttrain/imagination.json");
    let start = Start::of(context)?.map_or(String::new(), |start| format!("\n\n{}", start.in_words()));
    if !path.exists() {
        return Ok(format!("There was no video of the expert in post-training scenes to compare with.{start}"));
    }
    let found: ImaginationReport = load_json(&path, "posttrain")?;
    let mut words = format!(
        "On scenes nobody trained on, the imagined latents are off by {:.2} (mean squared, normalised; {:.2} if nothing \
         moved",
        found.latent_error, found.latent_error_still
    );
    match found.latent_error_average {
        None => words.push_str(")."),
        Some(average) => {
            words += &format!(", {average:.2} if every scene went as the average training video).");
            if found.latent_error >= average {
                words += " **That is no nearer than the average training video**: more video, other training, or \
                          `world.model.flow.anchor = \"forecast\"` for the embedded model come before stage 2.";
            }
        }
    }
    if let (Some(real), Some(imagined)) = (found.idm_error_real, found.idm_error_imagined) {
        words += &format!(
            " On {} of them the inverse dynamics model reads actions off real video with a mean absolute error of \
             {real:.3}, off imagined video with {imagined:.3}.",
            found.scenes
        );
    }
    Ok(words + &start)
}

/// Below this cosine, before stage 2, no run measured so far has gained anything (docs/metrics.md).
const FAINT: f64 = 0.2;

/// Where stage 2 starts from: the cosine of the base policy's chunks to what was imagined of their scenes, over all chunks
/// and in the first.
#[derive(Clone, Copy, Debug)]
struct Start {
    imagined: [f64; 2],
    /// The same to real video, where a control has it.
    real: Option<[f64; 2]>,
}

impl Start {
    /// `None` before stage 2, and for its forms without a shared space.
    fn of(context: &Context) -> Result<Option<Self>, PipelineError> {
        let lines = read_metrics(&context.out)?;
        let at_start = |arm: Arm| {
            let first =
                |value: &str| curve(&lines, &arm.folder(0), value).first().filter(|(step, _)| *step == 0.0).copied();
            Some([first("rollout_cosine")?.1, first("rollout_cosine_chunk_00")?.1])
        };
        Ok(at_start(Arm::World2Act).map(|imagined| Self { imagined, real: at_start(Arm::Oracle) }))
    }

    fn in_words(self) -> String {
        let [all, first] = self.imagined;
        let mut words = format!(
            "Before stage 2, action chunks of the base policy point towards what was imagined of their scenes with a cosine of \
             {all:.2}, and of {first:.2} in the first chunk"
        );
        if let Some([all, first]) = self.real {
            words += &format!("; towards real video of the expert there with {all:.2} and {first:.2}");
        }
        words.push('.');
        if all < FAINT {
            words += " **That is hardly a direction to follow**: expect nothing of stage 2 before the world model imagines \
                      better (more video, more updates) or stage 1 has more labels.";
        }
        words
    }
}

/// Distance of imagination and real video over the chunks of an episode.
fn horizon_plots(context: &Context) -> Result<Vec<(w2a_report::Html, &'static str)>, PipelineError> {
    let path = context.path(world::HORIZON);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let horizon: Horizon = load_json(&path, "world")?;
    let points = |values: &[f64]| -> Vec<(f64, f64)> { (1..).map(f64::from).zip(values.iter().copied()).collect() };
    let mut error = LinePlot::new("Error over the horizon", "chunk", "squared error").include_y(0.0, 0.0);
    let mut frechet = LinePlot::new("Fréchet distance over the horizon", "chunk", "distance").include_y(0.0, 0.0);
    for model in &horizon.models {
        error = error.series(&model.name, &points(&model.latent_error));
        frechet = frechet.series(&model.name, &points(&model.frechet));
    }
    let still = points(&horizon.still_error);
    Ok(vec![
        (
            error.series("nothing moves", &still).dashed().render(),
            "Imagined latents against real ones of the same scene, normalised. It also counts what cannot be known.",
        ),
        (
            frechet.render(),
            "Between Gaussian fits, entry by entry, of all imagined and of all real latents: what is shifted or blurred \
             counts, which scene it belongs to does not.",
        ),
    ])
}

/// What a world model with skills did against one without, in words that follow from the numbers.
fn skills_note(context: &Context) -> Result<Option<String>, PipelineError> {
    if !Arm::BaseWorld.takes_part(&context.config) {
        return Ok(None);
    }
    let info = EvalInfo::load(context.path(AGAINST_BASE_WORLD))?;
    let of = |name: &str| info.methods.get(name);
    let success = |name: &str| of(name).and_then(|method| method.all.pc_success).unwrap_or(f64::NAN);
    let Some(paired) = of(HEADLINE).and_then(|method| method.paired_vs_base.as_ref()) else { return Ok(None) };
    Ok(Some(format!(
        "**Skill-WM against Base-WM**: post-trained on imagination skill by skill, the policy solves {:.1} %, on windows \
         under the whole instruction {:.1} %; {}. {} episodes won and {} lost, p = {:.3} (exact McNemar test by scene).",
        success(HEADLINE),
        success(Arm::BaseWorld.name()),
        if paired.p_value < 0.05 { "the difference is clear" } else { "no clear difference" },
        paired.won,
        paired.lost,
        paired.p_value
    )))
}

/// What the paper's own objective did, in words that follow from the numbers.
fn paper_note(context: &Context, info: &EvalInfo) -> Result<Option<String>, PipelineError> {
    let Some(paired) = info.methods.get("w2a_infonce").and_then(|method| method.paired_vs_base.as_ref()) else {
        return Ok(None);
    };
    let gains: Vec<String> = (0..Arm::Infonce.seeds(&context.config))
        .map(|seed| Ok(Arm::Infonce.gain(context, seed)?.to_string()))
        .collect::<Result<_, PipelineError>>()?;
    let verdict = match (paired.p_value < 0.05, paired.scenes[0] > paired.scenes[1]) {
        (true, true) => "helped here",
        (true, false) => "made things worse here",
        (false, _) => "made no clear difference here",
    };
    Ok(Some(format!(
        "**The paper's own objective** (InfoNCE between imagined latents and bent actions) {verdict}: against the base \
         policy {} episodes won and {} lost, at the scale the label-free rule chose for each seed ({}; 0 is the base itself).",
        paired.won,
        paired.lost,
        gains.join(", ")
    )))
}

/// Which backbones of others the run works with; nothing if it has trained its own.
fn backbones_note(context: &Context) -> Result<Option<String>, PipelineError> {
    let mut words = Vec::new();
    if context.config.world.kind == WorldKind::Cosmos {
        let id: ModelId = load_json(&context.path(run_world::MODEL), "world")?;
        words.push(format!("the world model is Cosmos-Predict2, weights and settings {}", short(&id.digest)));
    }
    let policy = &context.config.policy;
    if policy.is_groot() {
        let id: ModelId = load_json(&context.path(crate::policy::CHECKPOINT), "policy")?;
        words.push(format!(
            "the base policy is GR00T-N1.6 as {}, files {}",
            policy.groot.embodiment,
            short(&id.digest)
        ));
    } else if policy.is_foreign() {
        words.push(format!("the base policy is served at {}", policy.remote));
    }
    Ok((!words.is_empty()).then(|| format!("**Frozen backbones**: {}.", words.join("; "))))
}

/// Enough of a digest to tell two apart.
fn short(digest: &str) -> String {
    format!("SHA-256 {}…", digest.chars().take(12).collect::<String>())
}

fn learning(context: &Context) -> Result<Vec<(w2a_report::Html, &'static str)>, PipelineError> {
    let lines = read_metrics(&context.out)?;
    let plot = |title: &str, stages: &[(&str, &str)], value: &str| {
        let mut plot = LinePlot::new(title, "update", value).log_y();
        for (name, stage) in stages {
            let points = curve(&lines, stage, value);
            if !points.is_empty() {
                plot = plot.series(name, &points);
            }
        }
        plot.render()
    };
    let arms = [Arm::World2Act, Arm::BaseWorld, Arm::Infonce, Arm::Oracle, Arm::Shuffled];
    let flows: Vec<(&str, String)> =
        Imaginer::all(&context.config).map(|imaginer| (imaginer.label(&context.config), imaginer.flow())).collect();
    let flows: Vec<(&str, &str)> = flows.iter().map(|(label, stage)| (*label, stage.as_str())).collect();
    let mut cosine = LinePlot::new("Stage 2", "update", "cosine to the target").include_y(0.0, 1.0);
    for arm in arms {
        let points = curve(&lines, &arm.folder(0), "rollout_cosine");
        if !points.is_empty() {
            cosine = cosine.series(method_label(arm.name()), &points);
        }
    }
    let mut plots = Vec::new();
    // A run with backbones of others has not trained these.
    if context.config.world.kind == WorldKind::Mini {
        let pixels = plot("Video autoencoder", &[("pixels", world::AUTOENCODER)], "pixel_mse");
        plots.push((pixels, "Mean squared error of pixels in [-1, 1]."));
        let latents = plot("Latent video model", &flows, "latent_mse");
        plots.push((latents, "Error of the predicted clean latents."));
    }
    if !context.config.policy.is_foreign() {
        let policies = [("narrow labels", crate::policy::BASE), ("wide labels", crate::policy::CEILING)];
        plots.push((plot("Policies", &policies, "loss"), "Mean absolute error of normalised actions."));
    }
    let stage1 = plot("Stage 1", &[("video → action", crate::align::ADAPTERS)], "video_to_action");
    plots.push((stage1, "InfoNCE over trajectories, in nats."));
    plots.push((cosine.render(), "First seed of each arm; every arm's target is its own."));
    Ok(plots)
}

/// Filmstrips and clips of imagined and executed video on evaluation scenes.
fn films(context: &Context, report: Report) -> Result<Report, PipelineError> {
    let shared = Shared::load(context)?;
    let is_libero = context.config.is_libero();
    let scenes = eval_scenes(context, context.config.ranges()[1])?.into_iter();
    let scenes: Vec<Scene> = scenes.filter(|scene| is_libero || !scene.in_support()).take(3).collect();
    if scenes.is_empty() {
        return Ok(report);
    }
    let chunks = context.config.chunks();
    let dreamt = |imaginer: Imaginer| -> Result<Vec<GridVideo>, PipelineError> {
        let latents = Dreamer::load(context, imaginer)?.imagine(context, &scenes, "imagine/report")?;
        model(shared.world.decode(&latents))
    };
    let imagined: Vec<(Imaginer, Vec<GridVideo>)> = Imaginer::all(&context.config)
        .map(|imaginer| Ok((imaginer, dreamt(imaginer)?)))
        .collect::<Result<_, PipelineError>>()?;
    let run = |arm: Arm| -> Result<Vec<Rollout>, PipelineError> {
        let actor = arm.actor(context, &shared, 0, arm.gain(context, 0)?)?;
        shared.rollouts(context, actor, &scenes, chunks, Record::Video, |_| {})
    };
    let (base, ours) = (run(Arm::Base)?, run(Arm::World2Act)?);
    let mut report = report;
    let mut clips = Vec::new();
    for (index, scene) in scenes.iter().enumerate() {
        let dreams = imagined
            .iter()
            .map(|(imaginer, videos)| Ok((imaginer.label(&context.config), pictures(&videos[index])?)))
            .collect::<Result<Vec<_>, PipelineError>>()?;
        let film = |rollout: &Rollout| rollout.video.as_ref().map_or(Ok(Vec::new()), pictures);
        let (before, after) = (film(&base[index])?, film(&ours[index])?);
        let verdict = |rollout: &Rollout| if rollout.success { "solved" } else { "failed" };
        let strip = |label: String, frames: &[Picture]| StripRow { label, frames: spaced(frames, 9) };
        let name = |label: &str| if dreams.len() > 1 { format!("Imagined, {label}") } else { "Imagined".to_owned() };
        let mut rows: Vec<StripRow> = dreams.iter().map(|(label, frames)| strip(name(label), frames)).collect();
        rows.push(strip(format!("World2Act, {}", verdict(&ours[index])), &after));
        rows.push(strip(format!("Base, {}", verdict(&base[index])), &before));
        let caption = format!("“{}”, scene {scene}; both cameras side by side.", scene.task_info().instruction);
        report = report.filmstrip(&rows, &caption)?;
        if let Some((_, dreamt)) = dreams.first() {
            clips.push(Clip {
                title: format!("Scene {}", index + 1),
                labels: vec!["Imagined".into(), "World2Act".into()],
                frames: side_by_side(dreamt, &after, 2)?,
                frames_per_s: if is_libero { 5 } else { 10 },
            });
        }
    }
    Ok(report.clips(&clips, "The same scenes, moving.")?)
}

pub(crate) fn pictures(video: &GridVideo) -> Result<Vec<Picture>, PipelineError> {
    let frames = (0..video.frames()).map(|frame| Picture::from_rgb(video.height, video.width, video.frame(frame)));
    Ok(frames.collect::<Result<_, _>>()?)
}

fn gain_plots(context: &Context) -> Result<Vec<(w2a_report::Html, &'static str)>, PipelineError> {
    let mut distance = LinePlot::new("Distance to the imagination", "scale", "latent distance");
    let mut success = LinePlot::new("Success on the same scenes", "scale", "success").include_y(0.0, 1.0);
    let arms = [Arm::World2Act, Arm::BaseWorld, Arm::Infonce, Arm::Regression, Arm::Dreamgen, Arm::Shuffled];
    for arm in arms.into_iter().filter(|arm| arm.takes_part(&context.config)) {
        let choice: GainChoice = load_json(&gain_path(context, &arm.folder(0)), "posttrain")?;
        let points = |value: fn(&(f32, f32, f32)) -> f32| -> Vec<(f64, f64)> {
            choice.candidates.iter().map(|tried| (f64::from(tried.0), f64::from(value(tried)))).collect()
        };
        let label = method_label(arm.name());
        distance = distance.series(label, &points(|tried| tried.1));
        success = success.series(label, &points(|tried| tried.2));
    }
    Ok(vec![
        (distance.render(), "The lowest point of each line is chosen."),
        (success.render(), "First seed of each arm."),
    ])
}

fn cosine_plot(context: &Context) -> Result<ScatterPlot, PipelineError> {
    let lines = read_metrics(&context.out)?;
    let mut plot = ScatterPlot::new("", "mean cosine to the target", "success of the rollouts, %");
    for arm in [Arm::World2Act, Arm::BaseWorld, Arm::Infonce, Arm::Oracle, Arm::Shuffled] {
        let stage = arm.folder(0);
        let success = curve(&lines, &stage, "rollout_success");
        let cosine = curve(&lines, &stage, "rollout_cosine");
        for (step, value) in success {
            if let Some((_, cosine)) = cosine.iter().find(|(at, _)| *at == step) {
                plot = plot.point(method_label(arm.name()), "", *cosine, 100.0 * value);
            }
        }
    }
    Ok(plot)
}

fn durations(context: &Context) -> BarChart {
    context
        .manifest
        .stages
        .iter()
        .filter(|stage| stage.seconds > 0.0)
        .fold(BarChart::new(""), |chart, stage| chart.bar(&stage.name, stage.seconds, &human_duration(stage.seconds)))
}

fn facts(context: &Context) -> Vec<(&'static str, String)> {
    let manifest = &context.manifest;
    let rank = rank_of_rule(context).map_or("not defined".to_owned(), |rank| format!("{rank:.2}"));
    vec![
        ("Version", manifest.version.clone()),
        ("Commit", manifest.git.as_ref().map_or("unknown".into(), |git| format!("`{}`", git.short()))),
        ("Command", format!("`{}`", manifest.command.join(" "))),
        ("Seed", manifest.seed.to_string()),
        ("Threads", manifest.threads.to_string()),
        ("Machine", manifest.machine.describe()),
        ("Rank correlation of distance and failure over the scales of `w2a`", rank),
    ]
}

/// Spearman correlation of the label-free distance with failure over the headline arm's scales.
fn rank_of_rule(context: &Context) -> Option<f64> {
    let choice: GainChoice = load_json(&gain_path(context, &Arm::World2Act.folder(0)), "posttrain").ok()?;
    let distance: Vec<f64> = choice.candidates.iter().map(|tried| f64::from(tried.1)).collect();
    let failure: Vec<f64> = choice.candidates.iter().map(|tried| 1.0 - f64::from(tried.2)).collect();
    stats::spearman(&distance, &failure)
}

#[cfg(test)]
mod tests {
    use super::Start;

    #[test]
    fn a_start_without_direction_is_called_one() {
        let start = Start { imagined: [0.06, 0.19], real: Some([0.49, 0.99]) };
        let words = start.in_words();
        assert!(words.contains("with a cosine of 0.06, and of 0.19 in the first chunk; towards real video"), "{words}");
        assert!(words.contains("hardly a direction"), "{words}");
        let words = Start { imagined: [0.55, 0.53], real: None }.in_words();
        assert!(words.ends_with("0.53 in the first chunk.") && !words.contains("real video"), "{words}");
    }
}
