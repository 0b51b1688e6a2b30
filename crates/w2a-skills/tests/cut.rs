//! Whole cuts: datasets drawn by hand, and the simulator's own demonstrations.

mod common;

use std::path::Path;

use common::{Reply, Server, demonstration, write};
use w2a_data::{Dataset, Episode};
use w2a_sim::{Range, Scene, Split, Suite, record, tasks};
use w2a_skills::{Analysis, Config, Request, Schema, Signal, SignalChoice, SkillsError, dry_run, run};

const BOTH: &str = "put a in b, then put c in d";

fn request(folder: &Path, demonstrations: &[Episode]) -> Request {
    write(&folder.join("demonstrations"), demonstrations);
    let schema = folder.join("prompts.toml");
    std::fs::write(&schema, format!("[tasks]\n\"{BOTH}\" = [\"put a in b\", \"put c in d\"]\n")).unwrap();
    let config = Config { schema: schema.display().to_string(), ..Config::preset("tabletop").unwrap() };
    Request {
        dataset: folder.join("demonstrations"),
        out: folder.join("skills"),
        config,
        skip_bad: false,
        write_ranges: true,
    }
}

fn with_llm(mut request: Request, server: &Server) -> Request {
    let llm = &mut request.config.llm;
    (llm.enabled, llm.base_url, llm.model) = (true, server.base_url.clone(), "m".into());
    (llm.attempts, llm.backoff_s) = (2, 0.01);
    request
}

fn says(text: &str) -> Reply {
    Reply::Says(text.into())
}

#[test]
fn kept_demonstrations_become_clips_that_open_as_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(
        folder.path(),
        &[demonstration(BOTH, "oocccooccoo"), demonstration(BOTH, "oocccooo"), demonstration("else", "ooccoo")],
    );
    let outcome = run(&request).unwrap();
    let summary = &outcome.summary;
    assert_eq!((summary.demonstrations, summary.kept, summary.clips), (3, 1, 2));
    let reasons: Vec<_> = summary.dropped.iter().map(|dropped| (dropped.reason, dropped.episodes.clone())).collect();
    assert_eq!(reasons, [("no_prompts", vec![2]), ("too_few_segments", vec![1])]);
    let dataset = Dataset::open(&outcome.dataset).unwrap();
    let clips: Vec<Episode> = dataset.episodes().collect::<Result<_, _>>().unwrap();
    assert_eq!(clips.iter().map(|clip| clip.instruction.as_str()).collect::<Vec<_>>(), ["put a in b", "put c in d"]);
    assert_eq!(clips[1].source, "episode=0 frames=50..110 skill=2/2 drawn oocccooccoo");
    assert_eq!((clips[0].len(), clips[1].len(), clips[1].actions[0]), (50, 60, 50.0));
    let page = std::fs::read_to_string(&outcome.page).unwrap();
    assert!(page.contains("1 of 3 demonstrations") && page.contains("data:image/png"));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(request.out.join("skills.json")).unwrap()).unwrap();
    assert_eq!(json["outcomes"][0]["clips"], serde_json::json!([[0, 50, 0], [50, 110, 1]]));
    assert_eq!(json["signals"]["aperture"], 3);
    let ranges = std::fs::read_to_string(request.out.join("video_metadata.json")).unwrap();
    let ranges: serde_json::Value = serde_json::from_str(&ranges).unwrap();
    assert_eq!(
        ranges["put_a_in_b,_then_put_c_in_d"]["demo_0"],
        serde_json::json!({ "0": { "start": 0, "end": 49 }, "1": { "start": 50, "end": 109 } })
    );
}

#[test]
fn a_result_that_is_there_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), &[demonstration(BOTH, "oocccooccoo")]);
    run(&request).unwrap();
    assert!(matches!(run(&request), Err(SkillsError::Exists { .. })));
}

#[test]
fn a_cut_that_keeps_nothing_leaves_the_page_and_no_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), &[demonstration(BOTH, "ooccoo")]);
    let error = run(&request).unwrap_err().to_string();
    assert!(error.contains("fewer segments than prompts") && error.contains("skills.html"), "{error}");
    assert!(request.out.join("skills.html").exists() && !request.out.join("dataset").exists());
}

#[test]
fn a_false_contact_is_dropped_by_the_model_and_joins_the_next_clip() {
    let server = Server::start(vec![says(r#"{"segments": [1, 2]}"#)]);
    let folder = tempfile::tempdir().unwrap();
    let request = with_llm(request(folder.path(), &[demonstration(BOTH, "oocooccooccoo")]), &server);
    let outcome = run(&request).unwrap();
    assert_eq!(outcome.summary.outcomes[0].clips, [[0, 70, 1], [70, 130, 2]]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_model_is_asked_once_for_an_instruction_and_never_where_counts_decide() {
    let server = Server::start(vec![says(r#"{"prompts": ["first", "second"]}"#)]);
    let folder = tempfile::tempdir().unwrap();
    let two = demonstration(BOTH, "ooccooccoo");
    let mut request = with_llm(request(folder.path(), &[two.clone(), two, demonstration(BOTH, "ooccoo")]), &server);
    request.config.schema.clear();
    let summary = run(&request).unwrap().summary;
    assert_eq!((summary.kept, summary.tasks[0].prompts.len()), (2, 2));
    assert_eq!(server.requests().len(), 1);
    assert!(server.requests()[0].contains("segments_seen"));
}

#[test]
fn answers_that_lie_cost_their_demonstration_only() {
    for (answer, reason) in [
        (r#"{"segments": [0, 9]}"#, "match_refused"),
        (r#"{"segments": [1, 0]}"#, "match_refused"),
        (r#"{"segments": [0, null]}"#, "prompt_unmatched"),
        (r#"{"segments": [0, 1, 2, 3]}"#, "match_refused"),
        ("no idea", "match_refused"),
    ] {
        let server = Server::start(vec![says(answer)]);
        let folder = tempfile::tempdir().unwrap();
        let demonstrations = [demonstration(BOTH, "ooccooccooccoo"), demonstration(BOTH, "ooccooccoo")];
        let summary = run(&with_llm(request(folder.path(), &demonstrations), &server)).unwrap().summary;
        assert_eq!((summary.kept, summary.dropped[0].reason), (1, reason), "{answer}");
    }
}

#[test]
fn more_prompts_than_segments_drop_the_demonstration() {
    let server = Server::start(vec![says(r#"{"prompts": ["a", "b", "c"]}"#)]);
    let folder = tempfile::tempdir().unwrap();
    let mut request = with_llm(request(folder.path(), &[demonstration(BOTH, "ooccooccoo")]), &server);
    request.config.schema.clear();
    assert!(run(&request).unwrap_err().to_string().contains("fewer segments than prompts"));
}

#[test]
fn a_run_that_was_ended_by_its_server_goes_on_with_the_answers_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let demonstrations = [demonstration("one", "ooccoo"), demonstration("two", "ooccoo")];
    let failing = Server::start(vec![says(r#"{"prompts": ["one"]}"#), Reply::Raw(500, "", String::new())]);
    let mut first = with_llm(request(folder.path(), &demonstrations), &failing);
    first.config.schema.clear();
    assert!(matches!(run(&first), Err(SkillsError::Chat(_))));
    assert!(!first.out.join("dataset").exists() && !first.out.join("skills.json").exists());
    let good = Server::start(vec![says(r#"{"prompts": ["two"]}"#)]);
    first.config.llm.base_url = good.base_url.clone();
    assert_eq!(run(&first).unwrap().summary.kept, 2);
    assert_eq!(good.requests().len(), 1);
}

#[test]
fn a_dry_run_prints_the_questions_sends_nothing_and_writes_nothing() {
    let server = Server::start(vec![says("{}")]);
    let folder = tempfile::tempdir().unwrap();
    let demonstrations = [demonstration(BOTH, "ooccooccooccoo"), demonstration("other", "ooccoo")];
    let request = with_llm(request(folder.path(), &demonstrations), &server);
    let text = dry_run(&request).unwrap();
    assert!(text.contains("hand_closes_s") && text.contains("\"other\": 1 with 1 segment(s)"), "{text}");
    assert!(text.contains("2 question(s)") && text.contains("Nothing was sent"), "{text}");
    assert!(server.requests().is_empty() && !request.out.exists());
}

#[test]
fn a_demonstration_that_cannot_be_read_ends_the_cut_unless_it_may_be_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), &[demonstration(BOTH, "ooccooccoo"), demonstration(BOTH, "oocccooccoo")]);
    // The second demonstration's number, which the data file holds once: a changed action breaks its checksum.
    let file = request.dataset.join("data/chunk-000/file-000.parquet");
    let mut bytes = std::fs::read(&file).unwrap();
    let wanted = 109.0_f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == wanted).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = run(&request).unwrap_err().to_string();
    assert!(error.contains("demonstration 1") && error.contains("--skip-bad"), "{error}");
    request.skip_bad = true;
    let summary = run(&request).unwrap().summary;
    assert_eq!((summary.kept, summary.demonstrations, summary.unreadable[0].episode), (1, 1, 1));
}

#[test]
fn a_hand_in_other_units_is_mentioned() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), &[demonstration(BOTH, "ooccooccoo")]);
    request.config.gripper.weights = vec![10.0];
    let _ = run(&request);
    let json = std::fs::read_to_string(request.out.join("skills.json")).unwrap();
    assert!(json.contains("gripper.weights` and"), "{json}");
}

/// The analysis of the expert's demonstration of a task.
fn analysed(suite: Suite, task: usize, index: u32, config: &Config) -> Analysis {
    let scene = Scene::new(suite, task, Split::Train, Range::Full, index).unwrap();
    Analysis::of(&record(scene, 0).unwrap().episode, config)
}

#[test]
fn the_simulators_grasps_are_cycles_of_the_tabletop_preset() {
    let config = Config::preset("tabletop").unwrap();
    for suite in [Suite::Object, Suite::Goal, Suite::Long] {
        for task in 0..tasks(suite).len() {
            let expected = if suite == Suite::Long { 2 } else { 1 };
            for index in 0..2 {
                let found = analysed(suite, task, index, &config);
                assert_eq!(
                    (found.signal, found.segments.len()),
                    (Some(Signal::Aperture), expected),
                    "{suite}/{task}/{index}"
                );
            }
        }
    }
}

#[test]
fn the_prompts_that_come_with_the_documents_are_those_of_the_simulator() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/skills/tabletop.toml");
    let schema = Schema::read(&path).unwrap();
    for suite in Suite::TABLETOP {
        for task in tasks(suite) {
            let prompts = schema.prompts(task.instruction).unwrap_or_else(|| panic!("{}", task.instruction));
            assert_eq!(prompts.len(), if suite == Suite::Long { 2 } else { 1 }, "{}", task.instruction);
        }
    }
}

#[test]
fn two_placed_blocks_are_cut_where_the_first_one_is_let_go() {
    let config = Config::preset("tabletop").unwrap();
    let found = analysed(Suite::Long, 0, 3, &config);
    // The expert lets go at step 52 of 64 in each half; the fingers need a moment to open.
    assert!(found.segments[1].frames.start.abs_diff(54) <= 3, "{:?}", found.segments);
    assert!(found.segments[0].contact.start.abs_diff(22) <= 3, "{:?}", found.segments);
}

#[test]
fn the_simulators_drawer_can_be_cut_by_motion_alone() {
    let mut config = Config::preset("tabletop").unwrap();
    config.segment.signal = SignalChoice::Motion;
    let found = analysed(Suite::Goal, 0, 0, &config);
    assert_eq!(found.signal, Some(Signal::Motion));
    // Reach down, pull, draw back: the hand rests at the handle and at the end of the pull.
    assert!((3..=4).contains(&found.segments.len()), "{:?}", found.segments);
}

#[test]
fn hdf5_files_are_cut_without_a_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../w2a-data/tests/fixtures/hdf5/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5");
    let schema = folder.path().join("prompts.toml");
    std::fs::write(&schema, "[tasks]\n\"turn on the stove\" = [\"turn the knob\"]\n").unwrap();
    let config = Config { schema: schema.display().to_string(), ..Config::preset("libero_panda").unwrap() };
    let request = Request { dataset, out: folder.path().join("skills"), config, skip_bad: false, write_ranges: false };
    let outcome = run(&request).unwrap();
    assert_eq!((outcome.summary.kept, outcome.summary.source.frames), (3, 12));
    let clips: Vec<Episode> = Dataset::open(&outcome.dataset).unwrap().episodes().collect::<Result<_, _>>().unwrap();
    assert_eq!(clips.iter().map(Episode::len).collect::<Vec<_>>(), [4, 3, 5]);
    assert!(clips.iter().all(|clip| clip.instruction == "turn the knob"));
}
