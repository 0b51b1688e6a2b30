use super::*;
use clap::CommandFactory;
use proptest::prelude::*;
use std::path::Path;

fn os(words: &[&str]) -> Vec<OsString> {
    std::iter::once("world2act").chain(words.iter().copied()).map(OsString::from).collect()
}

fn overrides(words: &[&str]) -> Vec<Override> {
    split(os(words)).unwrap().1
}

fn run(words: &[&str]) -> RunRequest {
    match parse(os(words)).unwrap() {
        Action::Run(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_of_the_flags_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn dotted_flags_are_taken_out_in_both_spellings() {
    let (plain, dotted) =
        split(os(&["align", "--align.temperature", "0.07", "--out", "runs/a.b", "--world.flow.width=96"])).unwrap();
    assert_eq!(plain, os(&["align", "--out", "runs/a.b"]));
    assert_eq!(dotted[0].key, ["align", "temperature"]);
    assert_eq!((&dotted[0].value, &dotted[0].flag[..]), (&Value::Float(0.07), "--align.temperature=0.07"));
    assert_eq!((dotted[1].key.len(), &dotted[1].value), (3, &Value::Integer(96)));
}

#[test]
fn values_are_toml_or_else_text() {
    let value = |text: &str| overrides(&["config", &format!("--a.b={text}")])[0].value.clone();
    assert_eq!(value("true"), Value::Boolean(true));
    assert_eq!(value("1e-4"), Value::Float(1e-4));
    assert_eq!(value("[1, 2]"), Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
    for text in ["cosine", "2026-01-31", "", "a b", "1 2", "[1", "x = 1", "\"open", "99999999999999999999"] {
        assert_eq!(value(text), Value::String(text.into()), "{text}");
    }
    assert_eq!(value("\"quoted\""), Value::String("quoted".into()));
    assert_eq!(value("k=v"), Value::String("k=v".into()));
}

#[test]
fn a_value_cannot_smuggle_in_a_second_setting() {
    let injected = &overrides(&["config", "--a.b=1\nseed = 2"])[0];
    assert_eq!(injected.value, Value::String("1\nseed = 2".into()));
}

#[test]
fn deep_nesting_is_refused_and_exhausts_nothing() {
    let deep = format!("--{}=1", vec!["a"; 40_000].join("."));
    let error = split(os(&["config", &deep])).unwrap_err().to_string();
    assert!(error.contains("more parts") && error.len() < 200, "{error}");
    let brackets = format!("--a.b={}", "[".repeat(40_000));
    assert!(matches!(overrides(&["config", &brackets])[0].value, Value::String(_)));
}

#[test]
fn negative_numbers_are_values_and_flags_are_not() {
    assert_eq!(overrides(&["config", "--a.b", "-1.5"])[0].value, Value::Float(-1.5));
    for words in [&["config", "--a.b"][..], &["config", "--a.b", "--resume"], &["config", "--a.b", "-h"]] {
        let error = split(os(words)).unwrap_err();
        assert!(matches!(&error, ArgsError::MissingValue { flag } if flag == "--a.b"), "{error}");
    }
}

#[test]
fn names_with_empty_parts_are_refused() {
    for name in ["--a.", "--.a", "--.", "--a..b", "--a.=1"] {
        assert!(matches!(split(os(&["config", name])), Err(ArgsError::Name { .. })), "{name}");
    }
}

#[test]
fn after_two_dashes_nothing_is_a_setting() {
    assert_eq!(overrides(&["config", "--", "--a.b=1"]), []);
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_named_in_settings_and_allowed_in_paths() {
    use std::os::unix::ffi::OsStringExt;
    let with = |words: &[&[u8]]| {
        let mut all = os(&["demo"]);
        all.extend(words.iter().map(|word| OsString::from_vec(word.to_vec())));
        all
    };
    for words in [&[&b"--a.b=\xff"[..]][..], &[b"--a.b", b"\xff"]] {
        let error = parse(with(words)).unwrap_err();
        assert!(matches!(&error, ArgsError::NotUtf8 { flag } if flag == "--a.b"), "{error}");
    }
    assert!(parse(with(&[b"--out", b"runs/\xff"])).is_ok());
}

#[test]
fn the_folder_depends_on_the_command() {
    assert_eq!(run(&["demo"]).out, PathBuf::from("runs/demo"));
    assert_eq!(run(&["align"]).out, PathBuf::from("runs/default"));
    assert_eq!(run(&["demo", "--out", "x"]).out, PathBuf::from("x"));
    assert!(matches!(run(&["demo"]).until, Stage::Report) && matches!(run(&["world"]).until, Stage::World));
    // The ablation adds to what the demo has left.
    let ablation = run(&["ablate", "--resume"]);
    assert_eq!((ablation.out, ablation.until, ablation.resume), (PathBuf::from("runs/demo"), Stage::Ablation, true));
}

#[test]
fn of_the_same_flag_the_last_one_wins() {
    let layers = run(&["demo", "--seed", "1", "--seed=2", "--a.b=1", "--a.b=2"]).layers;
    assert_eq!(layers.overrides[0].value, Value::Integer(2));
    assert_eq!(layers.overrides.last().unwrap().value, Value::Integer(2));
}

#[test]
fn a_wrong_profile_a_negative_seed_and_settings_for_the_doctor_are_refused() {
    for words in [&["demo", "--profile", "fulll"][..], &["demo", "--seed", "-1"], &["demo", "--threads", "0"], &[]] {
        assert!(matches!(parse(os(words)), Err(ArgsError::Clap(_))), "{words:?}");
    }
    assert!(matches!(parse(os(&["doctor", "--a.b=1"])), Err(ArgsError::NoSettings { .. })));
}

#[test]
fn world_is_a_stage_and_has_commands_of_its_own() {
    let stage = run(&["world", "--out", "x", "--world.flow_train.steps=9"]);
    assert!(stage.until == Stage::World && stage.out == Path::new("x") && stage.layers.overrides.len() == 1);
    let imagine = ["world", "imagine", "in", "--world", "run", "--out", "o", "--shard", "1/3", "--views", "libero"];
    let Action::World(WorldAction::Imagine(args, world)) = parse(os(&imagine)).unwrap() else {
        panic!("no imagination")
    };
    assert_eq!((args.shard.index, args.shard.count, args.seed, args.chunks), (1, 3, 0, None));
    assert!(args.views.is_some() && !args.skip_bad && args.cache.is_none());
    assert_eq!(world, WorldChoice::Run("run".into()));
    for words in [
        &["world", "--resume", "imagine", "in", "--world", "run", "--out", "o"][..],
        &["world", "imagine", "in", "--world", "run", "--out", "o", "--shard", "3/3"],
        &["world", "imagine", "in", "--world", "run", "--out", "o", "--shard", "-1/3"],
        &["world", "imagine", "in", "--world", "run", "--out", "o", "--views", "spot"],
        &["world", "preview", "--world", "run", "--out", "o.gif"],
        &["world", "scenes", "object/9/eval/full/000000", "--out", "o"],
    ] {
        assert!(matches!(parse(os(words)), Err(ArgsError::Clap(_))), "{words:?}");
    }
    let setting = ["world", "scenes", "object/0/eval/full/000000", "--out", "o", "--a.b=1"];
    assert!(matches!(parse(os(&setting)), Err(ArgsError::NoSettings { command: "world scenes", .. })));
}

#[test]
fn a_world_model_is_that_of_a_run_or_a_checkpoint_and_never_both() {
    let asked = |more: &[&str]| parse(os(&[&["world", "imagine", "in", "--out", "o"], more].concat()));
    let words = ["--world.kind=cosmos", "--world.path=a", "--world.path=b", "--world.sampler.steps=5"];
    let Action::World(WorldAction::Imagine(_, WorldChoice::Cosmos { path, overrides })) = asked(&words).unwrap() else {
        panic!("no checkpoint")
    };
    assert_eq!((path.as_path(), overrides.len()), (Path::new("b"), 1));
    for (words, message) in [
        (&[][..], "neither is given"),
        (&["--world.path=a"], "neither is given"),
        (&["--world.kind=cosmos"], "world.path is missing"),
        (&["--world.kind=mini", "--world.path=a"], "world.kind is \"mini\""),
        (&["--world", "run", "--world.kind=cosmos"], "--world RUN takes no settings"),
    ] {
        let error = asked(words).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("--world.kind=cosmos"), "{error}");
    }
    let embed = ["world", "embed-prompts", "in", "--world.kind=cosmos", "--world.path=a"];
    assert!(matches!(parse(os(&embed)), Ok(Action::World(WorldAction::EmbedPrompts(..)))));
}

proptest! {
    #[test]
    fn arbitrary_words_never_panic(words in proptest::collection::vec(".{0,30}", 0..6)) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let _ = parse(os(&words));
    }

    #[test]
    fn arbitrary_settings_never_panic_and_are_never_lost(name in "[a-z.\"\\[\\]-]{0,12}", value in ".{0,40}") {
        let flag = format!("--s.{name}={value}");
        let parts = name.split('.').collect::<Vec<_>>();
        match split(os(&["config", &flag])) {
            Ok((plain, dotted)) => {
                prop_assert_eq!(plain.len() + dotted.len(), 3);
                prop_assert_eq!(dotted[0].key.len(), 1 + parts.len());
            }
            Err(_) => prop_assert!(parts.iter().any(|part| part.is_empty()) || parts.len() >= MAX_KEY_PARTS),
        }
    }
}

#[test]
fn data_is_a_stage_and_has_commands_of_its_own() {
    assert_eq!(run(&["data", "--out", "runs/a", "--resume"]).until, Stage::Data);
    assert_eq!(run(&["data", "--data.labelled=3"]).layers.overrides.len(), 1);
    let Action::InspectData { skip_bad: true, json: true, .. } =
        parse(os(&["data", "inspect", "demos", "--skip-bad", "--json"])).unwrap()
    else {
        panic!("not an inspection");
    };
    let convert = |more: &[&str]| match parse(os(&[&["data", "convert", "a", "b"], more].concat())) {
        Ok(Action::ConvertData { options, .. }) => Ok(options),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let options = convert(&["--to", "v2.1", "--gr00t"]).unwrap();
    assert_eq!((options.version, options.gr00t_horizon), (DatasetVersion::V21, Some(16)));
    assert_eq!(options.video, Some(Encoding::H264));
    assert_eq!(convert(&["--to", "v2.1"]).unwrap().video, Some(Encoding::Av1));
    assert_eq!(convert(&["--to", "v2.1", "--video", "none"]).unwrap().video, None);
    let options = convert(&["--to", "v3.0", "--skip-bad"]).unwrap();
    assert!(options.skip_bad && options.gr00t_horizon.is_none() && options.version == DatasetVersion::V30);
    assert!(convert(&["--to", "v2.0"]).unwrap_err().contains("v2.1"));
    assert!(convert(&["--to", "v2.1", "--horizon", "8"]).unwrap_err().contains("--gr00t"));
    for mixed in [&["data", "--resume", "inspect", "demos"][..], &["data", "inspect", "demos", "--data.labelled=3"]] {
        assert!(parse(os(mixed)).is_err(), "{mixed:?}");
    }
}

#[test]
fn fine_tuning_of_a_world_model_is_lora_by_default_and_needs_a_checkpoint() {
    let model = ["--world.kind=cosmos", "--world.path=dir"];
    let asked = |more: &[&str]| {
        parse(os(&[&["world", "finetune", "--data", "d", "--out", "o"][..], &model[..], more].concat()))
    };
    let Ok(Action::World(WorldAction::Finetune(args, path, left))) = asked(&["--world.latent_frames=8"]) else {
        panic!("not understood");
    };
    assert_eq!((args.method, args.rank, args.batch, args.lr), (Tuned::Lora, 16, 1, None));
    assert_eq!((path, left.len()), (std::path::PathBuf::from("dir"), 1));
    assert!(
        asked(&["--method", "full", "--activations=keep", "--loss-weight", "release", "--views", "libero"]).is_ok()
    );
    for wrong in [
        &["--method", "half"][..],
        &["--activations", "forget"],
        &["--loss-weight", "edm"],
        &["--layout", "grid"],
        &["--rank", "0"],
        &["--samples", "0"],
        &["--steps", "-1"],
    ] {
        assert!(matches!(asked(wrong), Err(ArgsError::Clap(_))), "{wrong:?}");
    }
    let without = parse(os(&["world", "finetune", "--data", "d", "--out", "o"]));
    assert!(matches!(without, Err(ArgsError::World { .. })));
    assert!(matches!(
        parse(os(&[&["world", "finetune", "--out", "o"][..], &model[..]].concat())),
        Err(ArgsError::Clap(_))
    ));
    let setting = parse(os(&["world", "tiny", "dir", "--a.b=1"]));
    assert!(matches!(setting, Err(ArgsError::NoSettings { command: "world tiny", .. })));
}
