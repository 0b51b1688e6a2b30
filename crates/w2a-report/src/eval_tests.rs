use super::*;

fn result(method: &str, scene: usize, seed: u64, success: bool) -> EpisodeResult {
    EpisodeResult {
        method: method.into(),
        task: format!("object/task{}", scene % 2),
        suite: "object".into(),
        scene: format!("eval/{scene}"),
        seed,
        in_support: scene < 4,
        success,
        steps: 10 + scene as u32,
        failure: None,
    }
}

/// Base: scenes 0..4 succeed of 0..8. `w2a`, seeds 1 and 2: scenes 1..7 and 1..6.
fn results() -> Vec<EpisodeResult> {
    let mut results = Vec::new();
    for scene in 0..8 {
        results.push(result("base", scene, 0, scene < 4));
        results.push(result("w2a", scene, 1, (1..7).contains(&scene)));
        results.push(result("w2a", scene, 2, (1..6).contains(&scene)));
    }
    results
}

fn build(results: &[EpisodeResult]) -> Result<EvalInfo, EvalError> {
    EvalInfo::build(results, "w2a", "base", 48.0, &BTreeMap::new())
}

#[test]
fn counts_are_right() {
    let info = build(&results()).unwrap();
    let (base, ours) = (&info.methods["base"], &info.methods["w2a"]);
    assert_eq!((base.all.pc_success, base.all.n_episodes), (Some(50.0), 8));
    assert_eq!((ours.all.pc_success, ours.all.n_episodes), (Some(1100.0 / 16.0), 16));
    assert_eq!(ours.seeds, [1, 2]);
    assert_eq!(ours.per_seed, BTreeMap::from([(1, 75.0), (2, 62.5)]));
    assert_eq!((ours.in_support.pc_success, ours.in_support.n_episodes), (Some(75.0), 8));
    assert_eq!((ours.out_of_support.pc_success, ours.out_of_support.n_episodes), (Some(62.5), 8));
    let pairs = ours.paired_vs_base.as_ref().unwrap();
    assert_eq!((pairs.won, pairs.lost, pairs.unpaired), (5, 2, 0));
    assert_eq!(pairs.scenes, [3, 1]);
    assert_eq!(pairs.p_value, mcnemar_exact(3, 1));
    assert!(base.paired_vs_base.is_none());
    assert_eq!(base.mean_steps_to_success, Some(11.5));
    assert_eq!((info.overall.eval_ep_s, info.overall.group.n_episodes), (2.0, 16));
}

#[test]
fn an_infrastructure_failure_is_no_policy_failure() {
    let mut results = results();
    results[0].failure = Some("worker lost".into());
    results[0].success = false;
    let info = build(&results).unwrap();
    let base = &info.methods["base"];
    assert_eq!((base.all.n_episodes, base.n_infrastructure_failures), (7, 1));
    assert_eq!(base.all.pc_success, Some(300.0 / 7.0));
    assert_eq!(info.methods["w2a"].paired_vs_base.as_ref().unwrap().unpaired, 2);
}

#[test]
fn the_file_has_lerobots_keys_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval_info.json");
    let info = build(&results()).unwrap();
    info.save(&path).unwrap();
    assert_eq!(EvalInfo::load(&path).unwrap(), info);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for key in ["pc_success", "n_episodes", "eval_s", "eval_ep_s", "video_paths", "avg_sum_reward"] {
        assert!(json["overall"].get(key).is_some(), "{key}");
    }
    assert_eq!(json["per_task"][1]["task_id"], 1);
    assert_eq!(json["per_task"][0]["metrics"]["successes"].as_array().unwrap().len(), 8);
    assert_eq!(json["per_group"]["object"]["n_episodes"], 16);
    let method = &json["methods"]["w2a"];
    assert!(method["ci95"][0].as_f64().unwrap() < method["pc_success"].as_f64().unwrap());
    assert_eq!(method["in_support"]["n_episodes"], 8);
    assert_eq!(method["paired_vs_base"]["won"], 5);
}

#[test]
fn a_repeated_episode_is_refused() {
    let mut results = results();
    results.push(results[0].clone());
    assert!(matches!(build(&results), Err(EvalError::Duplicate { .. })));
}

#[test]
fn contradictory_support_is_refused() {
    let mut results = results();
    results[0].in_support = false;
    assert!(matches!(build(&results), Err(EvalError::Support { .. })));
}

#[test]
fn a_missing_headline_is_named() {
    let error = EvalInfo::build(&results(), "w2b", "base", 1.0, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("\"w2b\"") && error.contains("base, w2a"), "{error}");
}

#[test]
fn a_truncated_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval_info.json");
    std::fs::write(&path, "{\"per_task\": [").unwrap();
    assert!(EvalInfo::load(&path).unwrap_err().to_string().ends_with("eval_info.json"));
}
