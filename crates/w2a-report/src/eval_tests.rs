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

const CLOCK: ControlSteps = ControlSteps { demonstration: 14, imagination: 13 };

fn build(results: &[EpisodeResult]) -> Result<EvalInfo, EvalError> {
    EvalInfo::build(results, "w2a", "base", 48.0, &BTreeMap::new(), CLOCK)
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
fn success_within_the_imagination_has_the_same_denominator() {
    let info = build(&results()).unwrap();
    let (base, ours) = (&info.methods["base"], &info.methods["w2a"]);
    // Scene `n` is solved at step `10 + n`: everything the base solves lies within 13 steps, of ours scenes 1 to 3.
    assert_eq!(base.pc_success_within_imagination, base.all.pc_success);
    assert_eq!(base.ci95_within_imagination, base.all.ci95);
    assert_eq!(ours.pc_success_within_imagination, Some(600.0 / 16.0));
    assert_eq!(ours.first_successes, BTreeMap::from([(11, 2), (12, 2), (13, 2), (14, 2), (15, 2), (16, 1)]));
    let [lo, hi] = ours.ci95_within_imagination.unwrap();
    assert!(lo < 37.5 && 37.5 < hi && hi < ours.all.ci95.unwrap()[1]);
}

#[test]
fn an_episode_that_fails_before_the_imagination_ends_is_not_solved_by_it() {
    // Failed episodes have a number of steps, too.
    let results = [result("base", 0, 0, false), result("w2a", 0, 0, false)];
    let ours = &build(&results).unwrap().methods["w2a"];
    assert_eq!((ours.pc_success_within_imagination, ours.first_successes.len()), (Some(0.0), 0));
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
    assert_eq!(
        (&method["pc_success_within_imagination"], &json["control_steps"]["imagination"]),
        (&37.5.into(), &13.into())
    );
    assert_eq!(method["first_successes"]["16"], 1);
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
    let error = EvalInfo::build(&results(), "w2b", "base", 1.0, &BTreeMap::new(), CLOCK).unwrap_err().to_string();
    assert!(error.contains("\"w2b\"") && error.contains("base, w2a"), "{error}");
}

#[test]
fn a_truncated_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval_info.json");
    std::fs::write(&path, "{\"per_task\": [").unwrap();
    assert!(EvalInfo::load(&path).unwrap_err().to_string().ends_with("eval_info.json"));
}
