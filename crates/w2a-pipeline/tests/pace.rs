//! Stage 2 with a slowed policy and an alignment in time, at toy size.

use w2a_pipeline::{Config, Request, Stage, run};
use w2a_posttrain::{Alignment, GainChoice};

#[test]
fn a_slowed_policy_is_trained_along_a_path_and_only_where_its_cosine_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base: Config = toml::from_str(include_str!("toy.toml")).unwrap();
    let mut slow = base.clone();
    slow.policy.slowdown = 1.25;
    slow.posttrain.stage2.objective.alignment = Alignment::SoftDtw;
    run(&Request { config: slow, out: at("slow"), resume: false, until: Stage::Posttrain }).unwrap();

    let lines = w2a_report::read_metrics(at("slow")).unwrap();
    let of = |stage: &'static str, name: &'static str| {
        let lines = lines.iter().filter(move |line| line.stage == stage);
        lines.filter_map(move |line| line.values.get(name).copied().flatten()).collect::<Vec<f64>>()
    };
    let (lag, cosine) = (of("posttrain/w2a/seed0", "lag"), of("posttrain/w2a/seed0", "aligned_cosine"));
    assert!(lag.len() == 4 && lag.iter().all(|lag| lag.abs() <= 4.0), "{lag:?}");
    assert!(cosine.iter().all(|cosine| (-1.0..=1.0).contains(cosine)), "{cosine:?}");
    assert!(of("posttrain/w2a_infonce/seed0", "lag").is_empty());
    assert_eq!(of("posttrain/w2a_infonce/seed0", "cosine").len(), 4);

    // What came before stage 2 does not depend on the pace, and the choice of the scale does.
    run(&Request { config: base, out: at("own"), resume: false, until: Stage::Posttrain }).unwrap();
    let bytes =
        |run: &str, name: &str| fs_err::read(at(run).join(name).join("checkpoints/last/model.safetensors")).unwrap();
    for name in ["world/flow", "policy/base", "align", "posttrain/idm"] {
        assert!(bytes("slow", name) == bytes("own", name), "{name}");
    }
    let choice = |run: &str| -> GainChoice {
        serde_json::from_slice(&fs_err::read(at(run).join("posttrain/w2a/seed0/gain.json")).unwrap()).unwrap()
    };
    let (slow, own) = (choice("slow").candidates, choice("own").candidates);
    assert!(slow.iter().zip(&own).all(|(slow, own)| slow.0 == own.0 && slow.1 != own.1), "{slow:?} {own:?}");
}
