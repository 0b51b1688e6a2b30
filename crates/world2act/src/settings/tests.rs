use super::*;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    device: String,
    align: Align,
    world: World,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Align {
    temperature: f32,
    loss: Loss,
    gains: Vec<f32>,
    is_frozen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Loss {
    Cosine,
    Infonce,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct World {
    flow: Train,
    autoencoder: Train,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Train {
    steps: usize,
    batch: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Plain,
    WithNoise,
}

impl Default for Align {
    fn default() -> Self {
        Self { temperature: 0.1, loss: Loss::Cosine, gains: vec![0.0, 0.15], is_frozen: true }
    }
}

fn base() -> Config {
    Config { seed: 0, device: "cpu".into(), align: Align::default(), world: World::default() }
}

fn flag(text: &str) -> Layer {
    let (name, value) = text.trim_start_matches("--").split_once('=').unwrap();
    let key: Vec<String> = name.split('.').map(str::to_owned).collect();
    Layer::flag(&key, value.parse().unwrap_or_else(|_| Value::String(value.into())), text)
}

fn file(text: &str) -> Layer {
    Layer::text(Path::new("run.toml"), text.into()).unwrap()
}

fn resolve(above: &[Layer]) -> Result<Config, SettingsError> {
    let mut layers = vec![Layer::defaults(&base()).unwrap()];
    layers.extend(above.iter().cloned());
    merge(&layers)
}

fn complaint(above: &[Layer]) -> String {
    let error = resolve(above).unwrap_err();
    assert!(error.is_users_mistake());
    error.to_string()
}

#[test]
fn flags_win_over_the_file_which_wins_over_the_defaults() {
    let file = file("seed = 3\n[align]\ntemperature = 0.5\nloss = \"infonce\"\n[world.flow]\nsteps = 7\n");
    let config = resolve(&[file, flag("--align.temperature=0.07"), flag("--world.flow.batch=2")]).unwrap();
    assert_eq!((config.seed, config.align.temperature, config.align.loss), (3, 0.07, Loss::Infonce));
    assert_eq!(config.world.flow, Train { steps: 7, batch: 2, kind: Kind::Plain });
    assert_eq!((config.align.gains, config.world.autoencoder), (base().align.gains, base().world.autoencoder));
}

#[test]
fn defaults_survive_the_way_through_toml() {
    assert_eq!(resolve(&[]).unwrap(), base());
    let printed = toml::to_string(&base()).unwrap();
    assert!(printed.contains("temperature = 0.1\n"), "{printed}");
    assert_eq!(resolve(&[file(&printed)]).unwrap(), base());
}

#[test]
fn a_section_with_a_kind_may_be_given_by_it_alone() {
    for above in [
        [flag("--world.flow=with-noise"), flag("--world.flow.steps=3")],
        [flag("--world.flow.steps=3"), flag("--world.flow=with-noise")],
        [file("[world]\nflow = \"with-noise\"\n"), flag("--world.flow.steps=3")],
    ] {
        assert_eq!(resolve(&above).unwrap().world.flow, Train { steps: 3, batch: 0, kind: Kind::WithNoise });
    }
    let said = complaint(&[flag("--world.flow=noise")]);
    assert!(said.starts_with("--world.flow=noise: `world.flow.kind` ") && said.contains("`with-noise`"), "{said}");
    assert!(complaint(&[flag("--world=noise")]).contains("a section with settings of its own"));
}

#[test]
fn a_whole_number_is_a_number() {
    assert_eq!(resolve(&[flag("--align.temperature=1")]).unwrap().align.temperature, 1.0);
}

#[test]
fn a_slip_is_answered_with_the_name_that_was_meant() {
    for (given, meant) in [
        ("--align.temprature=1", "align.temperature"),
        ("--algin.temperature=1", "align.temperature"),
        ("--algin={ temperature = 1 }", "align.temperature"),
        ("--align.is-frozen=1", "align.is_frozen"),
        ("--temperature=1", "align.temperature"),
        ("--posttrain.temperature=1", "align.temperature"),
        ("--world.flwo.steps=1", "world.flow.steps"),
        ("--sede=1", "seed"),
    ] {
        let said = complaint(&[flag(given)]);
        assert!(said.starts_with(&format!("{given}: ")), "{said}");
        assert!(said.ends_with(&format!("did you mean `{meant}`?")), "{said}");
    }
}

#[test]
fn an_unknown_key_without_a_neighbour_lists_the_section() {
    let said = complaint(&[flag("--world.flow.something_else=1")]);
    assert_eq!(
        said,
        "--world.flow.something_else=1: there is no setting `world.flow.something_else`; `world.flow` has batch, kind, steps"
    );
    let said = complaint(&[flag("--nonsense_of_a_section.qqqqqqqq=1")]);
    assert!(said.ends_with("the configuration has align, device, seed, world"), "{said}");
}

#[test]
fn a_mistake_in_the_file_is_found_by_its_line() {
    let said = complaint(&[file("seed = 1\n\n[align]\n# a comment\ntemprature = 2\n"), flag("--align.temperature=1")]);
    assert!(said.starts_with("run.toml, line 5: there is no setting `align.temprature`"), "{said}");
    let said = complaint(&[file("[world]\nflow = { steps = -3 }\n")]);
    assert!(said.starts_with("run.toml, line 2: `world.flow.steps` has to be a whole number"), "{said}");
    assert!(said.contains("-3"), "{said}");
}

#[test]
fn a_value_of_the_wrong_kind_says_expected_and_got() {
    for (given, expected) in [
        ("--align.temperature=cold", "`align.temperature` has to be a number, got string \"cold\""),
        ("--seed=-1", "`seed` has to be a whole number that is not negative, got integer `-1`"),
        ("--seed=1.5", "`seed` has to be a whole number that is not negative, got floating point `1.5`"),
        ("--align.gains=0.1", "`align.gains` has to be a sequence, got floating point `0.1`"),
        ("--align.gains=[0.1, \"x\"]", "`align.gains` has to be a number, got string \"x\""),
        ("--align.is_frozen=yes", "`align.is_frozen` has to be true or false, got string \"yes\""),
        ("--align=5", "`align` has to be a section with settings of its own, got integer `5`"),
        ("--seed.x=5", "`seed` has to be a whole number that is not negative, got map"),
    ] {
        assert_eq!(complaint(&[flag(given)]), format!("{given}: {expected}"));
    }
    let said = complaint(&[flag("--align.loss=cosin")]);
    assert!(said.contains("cosin") && said.contains("`cosine`") && said.contains("`infonce`"), "{said}");
}

#[test]
fn of_two_layers_the_one_that_won_is_named() {
    let said = complaint(&[file("[align]\ntemperature = \"a\"\n"), flag("--align.temperature=b")]);
    assert!(said.starts_with("--align.temperature=b: ") && said.contains("\"b\""), "{said}");
}

#[test]
fn hostile_files_are_errors_that_name_the_file() {
    let deep = format!("a = {}", "[".repeat(100_000));
    let keys = format!("{} = 1", vec!["a"; 50_000].join("."));
    for text in ["seed", "seed = ", "[align\n", "seed = 1\nseed = 2\n", "\u{0}", "seed = 1e", &deep, &keys] {
        let said = match Layer::text(Path::new("run.toml"), text.into()) {
            Err(error) => error.to_string(),
            Ok(layer) => complaint(&[layer]),
        };
        assert!(said.contains("run.toml") && said.len() < 1000, "{said}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = Layer::file(&folder.path().join("absent.toml")).unwrap_err().to_string();
    assert!(said.contains("absent.toml") && said.contains("--config"), "{said}");
    // A folder is no file, bytes are no text.
    assert!(Layer::file(folder.path()).unwrap_err().to_string().contains(&*folder.path().to_string_lossy()));
    let path = folder.path().join("bytes.toml");
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(Layer::file(&path).unwrap_err().to_string().contains("bytes.toml"));
}

#[test]
fn differences_are_by_full_key() {
    let one = file("a = 1\n[b]\nc = 2\nd = 3\n");
    let other = file("a = 1\n[b]\nc = 5\ne = 3\n");
    assert_eq!(differences(one.values(), other.values()), ["b.c", "b.d", "b.e"]);
}

proptest! {
    #[test]
    fn arbitrary_flags_give_a_configuration_or_a_users_mistake(
        key in proptest::collection::vec("(align|world|flow|steps|seed|temperature|gains|[a-z.\"]{0,6})", 1..5),
        value in "(1|-1|0.5|nan|true|\\[\\]|\\{\\}|\\{ steps = 1 \\}|[ -~]{0,12})",
    ) {
        let value = value.parse().unwrap_or(Value::String(value));
        if let Err(error) = resolve(&[Layer::flag(&key, value, "--the.flag")]) {
            prop_assert!(error.is_users_mistake());
            prop_assert!(error.to_string().contains("--the.flag"), "{}", error);
        }
    }

    #[test]
    fn arbitrary_text_gives_a_configuration_or_a_users_mistake(
        text in "(\\[|\\]|=|\\.|\"|\n| |seed|align|1|true){0,24}",
    ) {
        match Layer::text(Path::new("run.toml"), text) {
            Err(error) => prop_assert!(error.is_users_mistake()),
            Ok(layer) => if let Err(error) = resolve(&[layer]) {
                prop_assert!(error.is_users_mistake());
                prop_assert!(error.to_string().contains("run.toml"), "{}", error);
            },
        }
    }
}
