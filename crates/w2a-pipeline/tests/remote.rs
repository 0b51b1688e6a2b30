//! A run whose base policy is a server's, and serving what a run has trained, at toy size.

use std::path::Path;
use std::sync::Arc;

use w2a_data::Observation;
use w2a_pipeline::{
    CheckpointOptions, Config, Layout, PolicySource, Protocol, Request, ServeRequest, Stage, run, start_serving,
};
use w2a_policy::Policy;
use w2a_serve::{Patience, RemotePolicy, Server};
use w2a_sim::{Environment, Scene, Tabletop};

fn request(policy: PolicySource, residual: Option<&Path>, protocol: Protocol) -> ServeRequest {
    ServeRequest {
        policy,
        residual: residual.map(Path::to_owned),
        learn: None,
        layout: None,
        habits: None,
        checkpoint: CheckpointOptions::default(),
        protocol,
        host: "127.0.0.1".into(),
        port: 0,
        token_env: String::new(),
        remote_token_env: String::new(),
        seed: 0,
    }
}

fn quiet() -> w2a_pipeline::Tell {
    Arc::new(|_: &str| ())
}

fn start(policy: PolicySource, residual: Option<&Path>, protocol: Protocol) -> (Server, String) {
    let server = start_serving(&request(policy, residual, protocol), Arc::default(), quiet()).unwrap();
    let url = format!("{}://{}", protocol.name(), server.address());
    (server, url)
}

fn connect(url: &str) -> RemotePolicy {
    RemotePolicy::connect(url.parse().unwrap(), Layout::tabletop(), None, Patience::default()).unwrap()
}

fn observations(scenes: &[&str]) -> Vec<Observation> {
    let scenes: Vec<Scene> = scenes.iter().map(|scene| scene.parse().unwrap()).collect();
    Tabletop::new(1).reset(&scenes).unwrap()
}

#[test]
fn stage_2_and_evaluation_on_a_servers_policy_come_to_the_same_bits_and_the_residual_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut config: Config = toml::from_str(include_str!("toy.toml")).unwrap();
    config.posttrain.methods = vec!["base".into(), "w2a".into()];
    run(&Request { config: config.clone(), out: at("own"), resume: false, until: Stage::Eval }).unwrap();

    let (server, url) = start(PolicySource::Mini(at("own")), None, Protocol::Groot);
    config.policy.remote = url.clone();
    run(&Request { config, out: at("remote"), resume: false, until: Stage::Eval }).unwrap();
    assert!(!at("remote").join("policy/base").exists());
    let bytes = |run: &str, name: &str| fs_err::read(at(run).join(name)).unwrap();
    let training = "posttrain/w2a/seed0";
    let files = [&format!("{training}/checkpoints/last/model.safetensors"), &format!("{training}/gain.json")];
    for name in files.into_iter().map(String::as_str).chain(["eval/base_seed0_full.json", "eval/w2a_seed0_full.json"]) {
        assert!(bytes("own", name) == bytes("remote", name), "{name}");
    }

    // A residual on top of the run's own policy, in process and through a second server, is the same policy.
    let seen = observations(&["object/0/eval/full/000000", "object/1/eval/full/000001"]);
    let words = ["put it in", "the basket"];
    let residual = at("own").join(training);
    let (direct, direct_url) = start(PolicySource::Mini(at("own")), Some(&residual), Protocol::Groot);
    let above = PolicySource::Remote(url.parse().unwrap());
    let (proxy, proxy_url) = start(above, Some(&residual), Protocol::Groot);
    let (mut direct, mut proxy) = ((connect(&direct_url), direct), (connect(&proxy_url), proxy));
    assert_eq!((direct.0.horizon(), proxy.0.horizon()), (4, 4));
    let bent = direct.0.act(&seen, &words).unwrap();
    assert_eq!(bent, proxy.0.act(&seen, &words).unwrap());
    let mut base = connect(&url);
    assert_eq!(base.act(&seen, &words).unwrap().len(), bent.len());

    let refused = |policy: PolicySource, residual: Option<&Path>, layout: Layout| {
        let request = ServeRequest { layout: Some(layout), ..request(policy, residual, Protocol::Openpi) };
        let error = start_serving(&request, Arc::default(), quiet()).err().unwrap();
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    let mini = || PolicySource::Mini(at("own"));
    assert!(refused(mini(), None, Layout::libero()).contains("--env: expected tabletop"));
    assert!(refused(mini(), Some(&at("own")), Layout::tabletop()).contains("posttrain/w2a/seed0"));
    assert!(refused(mini(), Some(&at("absent")), Layout::tabletop()).contains("--residual"));
    assert!(refused(PolicySource::Mini(at("remote")), None, Layout::tabletop()).contains(&url));
    assert!(refused(PolicySource::Mini(folder.path().into()), None, Layout::tabletop()).contains("config.toml"));
    drop(server);
}

#[test]
fn a_checkpoint_of_groot_is_served_under_its_own_names_with_noise_counted_from_each_reset() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tiny");
    w2a_pipeline::write_tiny_policy(&dir, 3).unwrap();
    let asked = |change: &dyn Fn(&mut ServeRequest)| {
        let mut request = request(PolicySource::Groot(dir.clone()), None, Protocol::Groot);
        request.checkpoint.embodiment = Some("libero_panda".into());
        change(&mut request);
        start_serving(&request, Arc::default(), quiet())
    };
    let server = asked(&|_| {}).unwrap();
    let url = format!("groot://{}", server.address());
    // Its names are those of the benchmark that its embodiment is of.
    let connect = || RemotePolicy::connect(url.parse().unwrap(), Layout::libero(), None, Patience::default()).unwrap();
    let camera = |name: &str| w2a_data::Camera { name: name.into(), height: 56, width: 56, rgb: vec![90; 56 * 56 * 3] };
    let seen = [Observation { cameras: vec![camera("image"), camera("wrist_image")], proprio: vec![0.01; 8] }];
    let (mut one, mut two) = (connect(), connect());
    let first = one.act(&seen, &["open the drawer"]).unwrap();
    assert_eq!(first.len(), one.horizon() * 7);
    assert_ne!(first, one.act(&seen, &["open the drawer"]).unwrap());
    assert_eq!(first, two.act(&seen, &["open the drawer"]).unwrap());
    one.reset();
    assert_eq!(first, one.act(&seen, &["open the drawer"]).unwrap());

    let refused = |change: &dyn Fn(&mut ServeRequest)| {
        let error = asked(change).err().unwrap();
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    assert!(refused(&|request| request.checkpoint.embodiment = None).contains("--embodiment: expected a tag"));
    assert!(refused(&|request| request.layout = Some(Layout::libero())).contains("--env: expected nothing"));
    assert!(refused(&|request| request.policy = PolicySource::Zero).contains("without --policy groot"));
}

#[test]
fn a_base_policy_whose_server_is_not_there_ends_the_run_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut config: Config = toml::from_str(include_str!("toy.toml")).unwrap();
    config.posttrain.methods = vec!["base".into(), "w2a".into()];
    config.policy.remote = "groot://127.0.0.1:1".into();
    config.policy.remote_token_env = "W2A_TEST_TOKEN_THAT_IS_NOT_SET".into();
    let request = Request { config, out: folder.path().join("run"), resume: false, until: Stage::Posttrain };
    let error = run(&request).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("policy.remote_token_env"), "{error}");
}
