//! Learning while serving, at toy size: a client of GR00T's protocol rolls out scenes and resets between them.

mod wire;

use std::path::Path;
use std::sync::{Arc, Mutex};

use w2a_pipeline::{CheckpointOptions, LearnRequest, PolicySource, Protocol, ServeRequest, Tell, start_serving};
use w2a_policy::Policy;
use w2a_serve::Server;
use wire::{Robot, probe, toy_run};

/// A variable that every test of cargo has.
const TOKEN_ENV: &str = "CARGO_PKG_NAME";

fn request(run: &Path, out: &Path) -> ServeRequest {
    let learn =
        LearnRequest { out: Some(out.to_owned()), batch: 8, trial: 2, keep: 20, ..LearnRequest::new(run.into()) };
    ServeRequest {
        policy: PolicySource::Mini(run.to_owned()),
        residual: None,
        learn: Some(learn),
        layout: None,
        habits: None,
        checkpoint: CheckpointOptions::default(),
        protocol: Protocol::Groot,
        host: "127.0.0.1".into(),
        port: 0,
        token_env: TOKEN_ENV.into(),
        remote_token_env: String::new(),
        seed: 0,
    }
}

/// A server, its address, and what it said.
struct Serving {
    server: Server,
    url: String,
    said: Arc<Mutex<Vec<String>>>,
}

fn start(request: &ServeRequest) -> Serving {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&said);
    let tell: Tell = Arc::new(move |words: &str| heard.lock().unwrap().push(words.to_owned()));
    let server = start_serving(request, Arc::default(), tell).unwrap();
    Serving { url: format!("groot://{}", server.address()), server, said }
}

impl Serving {
    fn robot(&self) -> Robot {
        Robot::connect(&self.url, Some(env!("CARGO_PKG_NAME")))
    }

    fn http(&self, request: &str) -> String {
        wire::http(&self.url, request)
    }

    fn learning(&self) -> serde_json::Value {
        let page = self.http("GET /learning HTTP/1.1\r\nhost: x\r\n\r\n");
        serde_json::from_str(page.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    /// Waits until nothing is computed any more.
    fn settled(&self) -> serde_json::Value {
        for _ in 0..600 {
            let page = self.learning();
            if page["phase"] == "collecting" {
                return page;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("still busy: {:?}", self.learning());
    }

    fn roll_back(&self, to: u64, token: &str) -> String {
        self.http(&format!(
            "POST /learning/rollback/{to} HTTP/1.1\r\nhost: x\r\nauthorization: Api-Key {token}\r\n\r\n"
        ))
    }
}

#[test]
fn a_robot_over_the_wire_is_learnt_from_and_every_update_can_be_refused_or_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (run, out) = (folder.path().join("run"), folder.path().join("out"));
    toy_run(&run);
    let asked = request(&run, &out);
    let serving = start(&asked);
    let token = env!("CARGO_PKG_NAME");
    let mut robot = serving.robot();
    let mut long = serving.robot();
    let before = probe(&mut long);
    // The step is zero at first: the policy alone, cut to the chunks of the world model.
    let plain = start(&ServeRequest { learn: None, ..asked.clone() });
    let alone = probe(&mut plain.robot());
    for (step, (bent, base)) in before.iter().zip(&alone).enumerate() {
        assert!((bent - base).abs() < 1e-5, "value {step}: {bent} instead of {base}");
    }

    // Eight to learn from, two more while that is computed, then four in turns: those without the update are spoilt, so
    // that it stays.
    (0..10).for_each(|index| robot.episode(index, false));
    [false, true, false, true].into_iter().enumerate().for_each(|(index, spoilt)| robot.episode(10 + index, spoilt));
    robot.end();
    let page = serving.settled();
    assert_eq!((&page["update"], &page["updates"][1]["status"]), (&1.into(), &"accepted".into()), "{page:#}");
    assert_eq!((&page["updates"][1]["lessons"], &page["updates"][1]["upto"]), (&8.into(), &8.into()));
    assert_eq!(page["updates"][1]["candidate"]["episodes"], 2);
    // What began before ends with the weights that it began with, to the bit; what begins now has the new ones.
    assert_eq!(probe(&mut long), before);
    let after = probe(&mut serving.robot());
    assert_ne!(after, before);
    long.end();
    assert_eq!(probe(&mut long), after);

    // The next update is spoilt itself. What was asked twice above was an episode as well: the fifteenth.
    (14..17).for_each(|index| robot.episode(index, false));
    [true, false, true, false].into_iter().enumerate().for_each(|(index, spoilt)| robot.episode(17 + index, spoilt));
    robot.end();
    let page = serving.settled();
    let second = &page["updates"][2];
    assert_eq!((&page["update"], &second["status"]), (&1.into(), &"refused".into()), "{page:#}");
    assert!(second["reason"].as_str().unwrap().starts_with("refused: executed video is"), "{second}");
    assert_eq!(probe(&mut serving.robot()), after);
    let said = serving.said.lock().unwrap().join("\n");
    assert!(said.contains("update 1 is accepted") && said.contains("update 2 is refused"), "{said}");
    let metrics = serving.http("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    for line in [
        "w2a_learn_update 1\n",
        "w2a_learn_updates{status=\"refused\"} 1\n",
        "w2a_learn_episodes_total{result=\"kept\"} 22\n",
        // The oldest are let go.
        "w2a_learn_episodes_held 20\n",
        "w2a_learn_distance ",
    ] {
        assert!(metrics.contains(line), "no {line:?} in {metrics}");
    }
    assert_eq!(fs_err::read_dir(out.join("episodes")).unwrap().count(), 20);

    // Back and forth, while serving: with the token only, and only to what was in use.
    assert!(serving.roll_back(0, "guess").starts_with("HTTP/1.1 401"), "a stranger");
    assert!(serving.roll_back(2, token).contains("an update that was in use: one of [0, 1], got 2"));
    assert!(serving.roll_back(0, token).contains("served with update 0"));
    assert_eq!(probe(&mut serving.robot()), before);
    assert_eq!(probe(&mut long), after);
    assert!(serving.roll_back(1, token).contains("served with update 1"));
    assert_eq!(probe(&mut serving.robot()), after);

    // A server that is started anew goes on, and may go back; another scale or policy is another folder.
    drop((robot, long, serving));
    let again = start(&asked);
    assert_eq!(probe(&mut again.robot()), after);
    assert_eq!(again.learning()["episodes_held"], 20);
    drop(again);
    let change = |change: fn(&mut LearnRequest)| {
        let mut learn = asked.learn.clone().unwrap();
        change(&mut learn);
        ServeRequest { learn: Some(learn), ..asked.clone() }
    };
    let back = start(&change(|learn| learn.rollback = Some(0)));
    assert_eq!(probe(&mut back.robot()), before);
    drop(back);
    // An update is a residual that can be served as it is.
    let frozen = ServeRequest { learn: None, residual: Some(out.join("updates/000001")), ..asked.clone() };
    assert_eq!(probe(&mut start(&frozen).robot()), after);
    let refused = |request: &ServeRequest| {
        let error = start_serving(request, Arc::default(), Arc::new(|_: &str| ())).err().unwrap();
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    assert!(refused(&change(|learn| learn.rollback = Some(7))).contains("--rollback: expected an update"));
    assert!(refused(&change(|learn| learn.gain = Some(0.7))).contains("its gain was"));
    assert!(refused(&change(|learn| learn.keep = 19)).contains("--learn-keep: expected at least 20"));
    assert!(refused(&change(|learn| learn.batch = 1)).contains("--learn-batch"));
    assert!(refused(&change(|learn| learn.trial = 0)).contains("--learn-trial"));
    assert!(refused(&change(|learn| learn.gain = Some(f32::NAN))).contains("--learn-gain"));
    let other = ServeRequest { policy: PolicySource::Zero, ..asked.clone() };
    assert!(refused(&other).contains("its --policy was"), "{}", refused(&other));
    assert!(refused(&change(|learn| learn.run = learn.run.join("absent"))).contains("--learn: expected the folder"));
    fs_err::write(out.join("episodes/000020.safetensors"), "cut").unwrap();
    assert!(refused(&asked).contains("000020.safetensors"));
}

#[test]
fn episodes_that_are_cut_or_too_short_teach_nothing_and_what_hangs_up_late_does() {
    let folder = tempfile::tempdir().unwrap();
    let (run, out) = (folder.path().join("run"), folder.path().join("out"));
    toy_run(&run);
    let serving = start(&request(&run, &out));
    let counts = |kept: u64, short: u64, cut: u64| {
        let names = ["episodes_kept", "episodes_short", "episodes_cut"];
        for attempt in 0.. {
            let page = serving.learning();
            let got = names.map(|name| page[name].as_u64().unwrap());
            if got == [kept, short, cut] {
                return;
            }
            assert!(attempt < 100, "{got:?} instead of {:?}", [kept, short, cut]);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let mut robot = serving.robot();
    // One chunk and a reset: nothing. Three and a reset: an episode. The whole imagination: one before any reset.
    robot.chunks(0, 1, false);
    robot.end();
    counts(0, 1, 0);
    robot.chunks(1, 3, false);
    robot.end();
    counts(1, 1, 0);
    robot.chunks(2, 16, false);
    counts(2, 1, 0);
    robot.chunks(2, 4, false);
    robot.end();
    counts(2, 1, 0);
    // Hanging up between two requests after three chunks of sixteen: cut. After eight: an episode.
    robot.chunks(3, 3, false);
    drop(robot);
    counts(2, 1, 1);
    let mut robot = serving.robot();
    robot.chunks(4, 8, false);
    drop(robot);
    counts(3, 1, 1);
    // A connection that breaks in the midst of a message: cut, however long.
    wire::break_off(&serving.url, 9, Some(env!("CARGO_PKG_NAME")));
    counts(3, 1, 2);
    // Two environments of one client are two episodes; another instruction begins another one.
    let mut robot = serving.robot();
    let seen = wire::observations(&[5, 6]);
    for _ in 0..4 {
        robot.remote.act(&seen, &["put the red block in the basket", "put it away"]).unwrap();
    }
    robot.remote.act(&seen, &["put the red block in the basket", "turn around"]).unwrap();
    counts(5, 1, 2);
    let episodes = fs_err::read_dir(out.join("episodes")).unwrap().count();
    assert_eq!(episodes, 5);
    drop(serving.server);
}
