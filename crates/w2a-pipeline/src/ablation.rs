//! The paper's ablation (its Table 5) on the embedded benchmark: rows of objective, similarity and what is trained.
//!
//! Demonstrations, world model and base policy are those of the run in the same folder; whatever row is also an arm of that
//! run is taken from there, and the other way round.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use w2a_align::{AdapterKind, AlignConfig, FrozenAdapters, LossConfig, LossVariant};
use w2a_posttrain::{Form, GainChoice, LoraConfig, Objective, ObjectiveConfig, PosttrainConfig};
use w2a_report::{EpisodeResult, EvalInfo, MethodInfo};
use w2a_sim::Scene;
use w2a_world::Latents;

use crate::arms::{Arm, TargetKind};
use crate::context::{Context, depends, load_json, model, save_json};
use crate::eval::{FULL, control_steps, evaluate, evaluate_as};
use crate::posttrain::{IMAGINATION, eval_scenes, idm, pseudo_actions, targets, upstream};
use crate::progress::{ablation_eval_part, eval_part};
use crate::stage2::{Shared, Stage2, choose_scale, embed, gain_path, scales};
use crate::world::{self, Imaginer, POSTTRAIN};
use crate::{Config, PipelineError, ablation_page, align};

/// The table as a file, in the run's folder.
pub(crate) const TABLE: &str = "ablation.json";
/// The row of the frozen base policy.
pub(crate) const BASE: &str = "base";
/// The row of our objective on the residual, which the page is about.
pub(crate) const HEADLINE: &str = "cosine";

/// A trained row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Name in files.
    pub name: &'static str,
    /// What a reader calls it.
    pub label: &'static str,
    /// Success in the paper's table (RoboCasa, 24 tasks), in percent.
    pub paper: Option<f64>,
    /// Stage 1 of its own, with this contrast alone over trajectories; `None` is the run's stage 1.
    pub contrast: Option<LossVariant>,
    /// Stage 2.
    pub stage2: PosttrainConfig,
}

/// The trained rows, in the order of the table.
pub(crate) fn rows(config: &Config) -> Vec<Row> {
    let ours = &config.posttrain.stage2;
    let objective = |objective: Objective| ObjectiveConfig {
        step_penalty: ours.objective.step_penalty,
        temperature: ours.objective.temperature,
        ..objective.config()
    };
    let contrast = |variant| objective(Objective::Infonce).variant(variant);
    let residual =
        |form, objective| PosttrainConfig { form, objective, decoding: w2a_posttrain::Decoding::Delta, ..ours.clone() };
    let latent = |objective| PosttrainConfig { decoding: ours.decoding, ..residual(Form::Latent, objective) };
    let lora = |rank, objective| PosttrainConfig {
        lora: LoraConfig { rank, alpha: ours.lora.alpha },
        ..residual(Form::Lora, objective)
    };
    let row = |name, label, paper, contrast, stage2| Row { name, label, paper, contrast, stage2 };
    let [both, one, marginal, global] = LossVariant::ALL;
    let infonce = || contrast(both);
    let own = Some(both);
    vec![
        row("bidirectional_chunk", "Bidirectional, chunk-wise", Some(72.6), own, latent(infonce())),
        row("one_directional_chunk", "One-directional, chunk-wise", Some(72.0), Some(one), latent(contrast(one))),
        row("marginal_chunk", "Marginal, chunk-wise", Some(70.7), Some(marginal), latent(contrast(marginal))),
        row("bidirectional_global", "Bidirectional, global", Some(69.3), Some(global), latent(contrast(global))),
        row("regression", "Regression (w/ BC)", Some(70.4), own, latent(objective(Objective::Regression))),
        row("action_form", "Correction of actions (v1)", None, own, residual(Form::Action, infonce())),
        row("lora_r16", "LoRA, r = 16", Some(71.4), own, lora(16, infonce())),
        row("lora_r32", "LoRA, r = 32", Some(72.1), own, lora(32, infonce())),
        row(HEADLINE, "Cosine", None, None, latent(objective(Objective::Cosine))),
        row("cosine_lora_r16", "Cosine, LoRA, r = 16", None, None, lora(16, objective(Objective::Cosine))),
    ]
}

impl Row {
    /// The arm of the run that is the same method.
    pub fn arm(&self, config: &Config) -> Option<Arm> {
        let same = |arm: &Arm| {
            arm.residual(config).is_some_and(|(stage2, kind)| kind == TargetKind::Imagined && stage2 == self.stage2)
        };
        Arm::ALL.into_iter().find(same).filter(|_| self.contrast.is_none())
    }

    /// Where a seed's training lives, which is also its name in the log.
    pub fn folder(&self, config: &Config, seed: usize) -> String {
        self.arm(config).map_or_else(|| format!("ablation/{}/seed{seed}", self.name), |arm| arm.folder(seed))
    }

    /// Name of the part of the run that evaluates a seed, and of its file.
    pub fn eval_part(&self, config: &Config, seed: usize) -> String {
        match self.arm(config) {
            Some(arm) => eval_part(arm, seed, FULL),
            None => ablation_eval_part(&self.folder(config, seed)),
        }
    }
}

/// Where adapters with one contrast live.
pub(crate) fn adapters_folder(contrast: LossVariant) -> String {
    format!("ablation/align/{}", contrast.name())
}

/// Stage 1 with one contrast: the run's, but without the contrast over all chunks, so that the named one is the only one.
fn align_config(config: &Config, contrast: LossVariant) -> AlignConfig {
    let loss = LossConfig { all_chunks: 0.0, ..config.align.loss.clone() }.variant(contrast);
    AlignConfig { loss, ..config.align.clone() }
}

/// Refuses a configuration whose stage 1 has no such variants, or under which not every row could be trained.
pub(crate) fn check(config: &Config) -> Result<(), PipelineError> {
    let refused = |key: &str, expected: &str, got: String| {
        Err(PipelineError::Config { key: key.into(), expected: expected.into(), got })
    };
    if config.align.adapter.kind != AdapterKind::Mlp {
        let expected = "mlp for the ablation: the action VAE has one contrast of its own";
        return refused("align.adapter", expected, "action-vae".into());
    }
    if !config.policy.remote.is_empty() {
        let expected = "nothing for the ablation: LoRA needs the policy's weights";
        return refused("policy.remote", expected, config.policy.remote.clone());
    }
    if config.policy.slowdown != 1.0 {
        let expected = "1 for the ablation: LoRA changes the policy at its own pace";
        return refused("policy.slowdown", expected, config.policy.slowdown.to_string());
    }
    Ok(())
}

/// A row as it is written to [`TABLE`].
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Line {
    pub name: String,
    pub label: String,
    /// `residual`, `lora` or, for the base, `nothing`.
    pub trained: String,
    /// Where the step is: `latent`, `action` or `lora`.
    pub form: Option<String>,
    /// The contrast of a stage 1 of its own.
    pub stage1: Option<String>,
    /// The weights of its stage 2.
    pub objective: Option<ObjectiveConfig>,
    pub trainable_parameters: usize,
    /// For each seed; `null` where a part of the training was not timed.
    pub stage2_s: Vec<Option<f64>>,
    /// For each seed the scales that were tried and the one that was chosen, without labels.
    pub scales: Vec<GainChoice>,
    /// In the paper, on RoboCasa.
    pub paper_pc_success: Option<f64>,
    pub result: MethodInfo,
}

pub(crate) fn run(context: &mut Context) -> Result<PathBuf, PipelineError> {
    let started = Instant::now();
    let shared = Shared::load(context)?;
    let config = context.config.clone();
    let rows = rows(&config);
    align_all(context, &shared, &rows)?;
    let scenes = world::posttrain_scenes(&config)?;
    let imagined = world::latents(context, &Imaginer::Main.imagined(POSTTRAIN))?;
    let pseudo = pseudo(context, &shared, &rows, &scenes, &imagined)?;
    let evaluated = eval_scenes(context, context.config.ranges()[1])?;
    context.folder("eval")?;
    let mut results = evaluate(context, &shared, Arm::Base, 0, &evaluated, FULL)?;
    let mut lines = Vec::new();
    for row in &rows {
        let own = row
            .contrast
            .map(|contrast| align::load(context, &adapters_folder(contrast), &shared.world, &shared.set.action));
        let own = own.transpose()?;
        let adapters = own.as_ref().unwrap_or(&shared.adapters);
        let done = train(context, &shared, row, adapters, &scenes, &imagined, &pseudo)?;
        for seed in 0..config.posttrain.seeds {
            let (name, part) = (row.folder(&config, seed), row.eval_part(&config, seed));
            let actor = || {
                let choice: GainChoice = load_json(&gain_path(context, &name), "ablation")?;
                Stage2 { name: &name, config: &row.stage2, adapters }.actor(context, &shared, choice.gain)
            };
            let method = row.arm(&config).map_or(row.name, Arm::name);
            let episodes = evaluate_as(context, &shared, (method, seed), &part, &evaluated, actor)?;
            results
                .extend(episodes.into_iter().map(|episode| EpisodeResult { method: row.name.to_owned(), ..episode }));
        }
        lines.push(done);
    }
    let seconds = started.elapsed().as_secs_f64();
    let info = EvalInfo::build(&results, HEADLINE, BASE, seconds, &BTreeMap::new(), control_steps(&config))?;
    let table = table(&rows, lines, &info);
    save_json(&context.path(TABLE), &table)?;
    ablation_page::write(context, &table, &info)
}

/// What the training of a row left for the table.
struct Done {
    parameters: usize,
    stage2_s: Vec<Option<f64>>,
    scales: Vec<GainChoice>,
}

/// Trains every seed of a row and chooses its scale, as far as that is not done.
fn train(
    context: &mut Context,
    shared: &Shared,
    row: &Row,
    adapters: &FrozenAdapters,
    scenes: &[Scene],
    imagined: &[Latents],
    pseudo: &[Vec<f32>],
) -> Result<Done, PipelineError> {
    let config = context.config.clone();
    let z_v = embed(&shared.world, adapters, imagined)?;
    let pseudo = (row.stage2.objective.regression > 0.0).then_some(pseudo);
    let upstream = match row.contrast {
        // As an arm of the run has it: either may be trained first.
        None => depends(&(&row.stage2, upstream(context)?)),
        Some(contrast) => depends(&(&row.stage2, upstream(context)?, align_config(&config, contrast))),
    };
    let scales = scales(&config, row.stage2.form);
    let mut done = Done { parameters: 0, stage2_s: Vec::new(), scales: Vec::new() };
    for seed in 0..config.posttrain.seeds {
        let name = row.folder(&config, seed);
        let stage2 = Stage2 { name: &name, config: &row.stage2, adapters };
        let trained = stage2.is_trained(context)?;
        let targets = if trained { Vec::new() } else { targets(scenes, |index| &z_v[index], pseudo) };
        stage2.train(context, shared, &targets, upstream.clone())?;
        choose_scale(context, shared, (&name, Imaginer::Main), &scales, |context, scale| {
            stage2.actor(context, shared, scale)
        })?;
        done.parameters = stage2.parameters(context, shared)?;
        done.stage2_s.push(stage2.seconds(context));
        done.scales.push(load_json(&gain_path(context, &name), "ablation")?);
    }
    Ok(done)
}

/// Trains the adapters of every contrast that a row asks for.
fn align_all(context: &mut Context, shared: &Shared, rows: &[Row]) -> Result<(), PipelineError> {
    let mut windows = None;
    for contrast in
        LossVariant::ALL.into_iter().filter(|contrast| rows.iter().any(|row| row.contrast == Some(*contrast)))
    {
        let name = adapters_folder(contrast);
        if align::is_done(context, &name)? {
            continue;
        }
        if windows.is_none() {
            windows = Some(align::demonstrations(context, &shared.world, &shared.set)?);
        }
        let config = align_config(&context.config, contrast);
        let windows = windows.as_deref().unwrap_or_default();
        align::train(context, &name, &config, &shared.world, &shared.set.action, windows)?;
    }
    Ok(())
}

/// Pseudo-actions of what was imagined; empty if the row that regresses is trained.
fn pseudo(
    context: &mut Context,
    shared: &Shared,
    rows: &[Row],
    scenes: &[Scene],
    imagined: &[Latents],
) -> Result<Vec<Vec<f32>>, PipelineError> {
    let config = context.config.clone();
    let mut wanted = false;
    for row in rows.iter().filter(|row| row.stage2.objective.regression > 0.0) {
        for seed in 0..config.posttrain.seeds {
            let name = row.folder(&config, seed);
            let stage2 = Stage2 { name: &name, config: &row.stage2, adapters: &shared.adapters };
            wanted |= !stage2.is_trained(context)?;
        }
    }
    if !wanted {
        return Ok(Vec::new());
    }
    let idm = idm(context, shared)?;
    context.progress.part(IMAGINATION);
    let videos = model(shared.world.decode(imagined))?;
    pseudo_actions(shared, &idm, scenes, &videos)
}

/// The base and every row with what it came to.
fn table(rows: &[Row], done: Vec<Done>, info: &EvalInfo) -> Vec<Line> {
    let result = |name: &str| info.methods.get(name).cloned();
    let base = result(BASE).map(|result| Line {
        name: BASE.into(),
        label: w2a_report::method_label(BASE).into(),
        trained: "nothing".into(),
        form: None,
        stage1: None,
        objective: None,
        trainable_parameters: 0,
        stage2_s: Vec::new(),
        scales: Vec::new(),
        paper_pc_success: Some(70.1),
        result,
    });
    let lines = rows.iter().zip(done).filter_map(|(row, done)| {
        Some(Line {
            name: row.name.into(),
            label: row.label.into(),
            trained: if row.stage2.form == Form::Lora { "lora" } else { "residual" }.into(),
            form: Some(row.stage2.form.name().into()),
            stage1: row.contrast.map(|contrast| contrast.name().into()),
            objective: Some(row.stage2.objective.clone()),
            trainable_parameters: done.parameters,
            stage2_s: done.stage2_s,
            scales: done.scales,
            paper_pc_success: row.paper,
            result: result(row.name)?,
        })
    });
    base.into_iter().chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use w2a_align::{AdapterKind, LossVariant};
    use w2a_posttrain::Form;

    use super::{HEADLINE, align_config, check, rows};
    use crate::arms::Arm;
    use crate::{Config, Profile};

    #[test]
    fn rows_that_are_arms_of_the_run_are_shared_and_others_are_not() {
        let mut config = Config::profile(Profile::Smoke);
        let shared = |config: &Config| -> Vec<(&str, Arm)> {
            rows(config).iter().filter_map(|row| Some((row.name, row.arm(config)?))).collect()
        };
        assert_eq!(shared(&config), [(HEADLINE, Arm::World2Act)]);
        // A run whose own objective or form is another one has no such arm.
        config.posttrain.stage2.objective.infonce = 0.5;
        assert_eq!(shared(&config), []);
        config = Config::profile(Profile::Smoke);
        config.posttrain.stage2.form = Form::Lora;
        assert_eq!(shared(&config), [("cosine_lora_r16", Arm::World2Act)]);
    }

    #[test]
    fn every_row_has_a_name_a_folder_and_a_method_of_its_own() {
        let config = Config::profile(Profile::Quick);
        let rows = rows(&config);
        for (index, row) in rows.iter().enumerate() {
            for other in &rows[..index] {
                assert!(row.name != other.name && row.label != other.label);
                assert!(row.folder(&config, 0) != other.folder(&config, 0));
                assert!(row.stage2 != other.stage2 || row.contrast != other.contrast, "{} {}", row.name, other.name);
            }
        }
    }

    #[test]
    fn stages_1_and_2_of_a_row_have_the_same_contrast_and_no_other() {
        let config = Config::profile(Profile::Quick);
        for row in rows(&config).iter().filter(|row| row.stage2.objective.infonce > 0.0) {
            let align = align_config(&config, row.contrast.unwrap());
            assert_eq!(align.loss.contrast(), row.stage2.objective.contrast(), "{}", row.name);
            assert_eq!(align.loss.all_chunks, 0.0);
        }
        assert_eq!(LossVariant::ALL[0], LossVariant::Bidirectional);
    }

    #[test]
    fn the_action_vae_has_no_variants_to_compare() {
        let mut config = Config::profile(Profile::Smoke);
        check(&config).unwrap();
        config.align.adapter.kind = AdapterKind::ActionVae;
        let error = check(&config).unwrap_err();
        assert!(error.is_users_mistake() && error.to_string().contains("mlp"), "{error}");
        config = Config::profile(Profile::Smoke);
        config.policy.slowdown = 1.25;
        assert!(check(&config).unwrap_err().to_string().contains("policy.slowdown"));
    }
}
