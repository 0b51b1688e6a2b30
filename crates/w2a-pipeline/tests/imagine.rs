//! Imagination of a folder: resumable, idempotent, the same for any division of the work; and its preview.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use w2a_pipeline::{
    Config, ImagineRequest, Imagined, PipelineError, PreviewRequest, Request, Rig, ScenesRequest, Shard, Stage,
    export_scenes, preview, run,
};
use w2a_world::{LatentShape, Latents, load_imagination, load_latents, save_latents};

/// What is said of memory is of no interest.
fn imagine(request: &ImagineRequest) -> Result<Imagined, PipelineError> {
    w2a_pipeline::imagine(request, &mut |_| {})
}

/// A run of toy size whose world model is trained, and a folder of six episodes; made once for all tests.
fn world() -> &'static (tempfile::TempDir, PathBuf, PathBuf) {
    static WORLD: OnceLock<(tempfile::TempDir, PathBuf, PathBuf)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (out, input) = (folder.path().join("run"), folder.path().join("frames"));
        let config: Config = toml::from_str(include_str!("toy.toml")).unwrap();
        run(&Request { config, out: out.clone(), resume: false, until: Stage::World }).unwrap();
        let scenes = ["object/0/posttrain/full/000000", "long/1/posttrain/full/000003"];
        let scenes = scenes.map(|scene| scene.parse().unwrap()).to_vec();
        assert_eq!(export_scenes(&ScenesRequest { scenes, count: 2, out: input.clone() }).unwrap(), 4);
        let (copy, twin) = (input.join("long/copy"), input.join("object/twin"));
        for (folder, of) in [(&copy, "long/1/posttrain/full/000003"), (&twin, "object/0/posttrain/full/000000")] {
            fs_err::create_dir_all(folder).unwrap();
            fs_err::copy(input.join(of).join("first_frame.png"), folder.join("first_frame.png")).unwrap();
        }
        fs_err::copy(input.join("object/0/posttrain/full/000000/prompt.txt"), twin.join("prompt.txt")).unwrap();
        fs_err::write(copy.join("aa_0.txt"), "put the red block in the bowl").unwrap();
        fs_err::write(copy.join("aa_1.txt"), "put the blue block on the plate").unwrap();
        (folder, out, input)
    })
}

fn request(input: &Path, out: PathBuf) -> ImagineRequest {
    ImagineRequest {
        input: input.to_owned(),
        world: world().1.clone().into(),
        out,
        cache: None,
        chunks: Some(3),
        rig: None,
        shard: Shard { index: 0, count: 1 },
        seed: 0,
        skip_bad: false,
        memory: None,
    }
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(
                files(&path).into_iter().map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            out.insert(PathBuf::from(path.file_name().unwrap()), fs_err::read(path).unwrap());
        }
    }
    out
}

fn copy_of_input() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&world().2) {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }
    folder
}

fn counts(done: &Imagined) -> (usize, usize, usize) {
    (done.made, done.reused, done.skipped.len())
}

#[test]
fn shards_add_up_to_the_whole_and_nothing_is_imagined_twice() {
    let folder = tempfile::tempdir().unwrap();
    let input = &world().2;
    let (whole, parts) = (request(input, folder.path().join("whole")), folder.path().join("parts"));
    let done = imagine(&whole).unwrap();
    assert_eq!((counts(&done), done.chunks), ((6, 0, 0), 5 * 3 + 6));
    for index in [2, 0, 1] {
        let shard = Shard { index, count: 3 };
        let done = imagine(&ImagineRequest { shard, ..request(input, parts.clone()) }).unwrap();
        assert_eq!(counts(&done), (2, 0, 0));
    }
    let expected = files(&whole.out);
    assert_eq!(expected.len(), 12);
    assert!(expected == files(&parts));

    // A killed run: one result is missing. The rest is known, and it comes out the same.
    let missing = whole.out.join("long/copy/latents.safetensors");
    fs_err::remove_file(&missing).unwrap();
    assert_eq!(counts(&imagine(&whole).unwrap()), (1, 5, 0));
    assert!(expected == files(&whole.out));
    assert_eq!(counts(&imagine(&whole).unwrap()), (0, 6, 0));

    let (source, latents) = load_imagination(&missing).unwrap();
    assert_eq!((latents.chunks(), &source.chunks[..], source.stream.as_str()), (6, &[3, 3][..], "imagine/long/copy"));
    assert_eq!(source.prompts, ["put the red block in the bowl", "put the blue block on the plate"]);
    let prompts = fs_err::read_to_string(whole.out.join("long/copy/prompt.txt")).unwrap();
    assert_eq!(prompts, "put the red block in the bowl\nput the blue block on the plate\n");
    // The same first frame and instruction under another path: other random numbers.
    let twins = ["0/posttrain/full/000000", "twin"]
        .map(|episode| load_imagination(&whole.out.join("object").join(episode).join("latents.safetensors")).unwrap());
    assert_eq!((&twins[0].0.first_frame, &twins[0].0.prompts), (&twins[1].0.first_frame, &twins[1].0.prompts));
    assert_ne!(twins[0].1, twins[1].1);
}

#[test]
fn what_changes_the_result_makes_it_anew_and_the_cache_knows_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let first = ImagineRequest { cache: Some(at("cache")), ..request(&world().2, at("first")) };
    assert_eq!(counts(&imagine(&first).unwrap()), (6, 0, 0));
    let before = files(&first.out);
    // Elsewhere, everything is in the cache.
    let second = ImagineRequest { out: at("second"), ..first.clone() };
    assert_eq!(counts(&imagine(&second).unwrap()), (0, 6, 0));
    assert!(files(&second.out) == before);
    // Another seed, another length, other prompts: made anew; back again, it is known.
    for other in [
        ImagineRequest { seed: 1, ..first.clone() },
        ImagineRequest { chunks: Some(2), ..first.clone() },
        ImagineRequest { rig: Some(Rig::Libero), ..first.clone() },
    ] {
        assert_eq!(counts(&imagine(&other).unwrap()), (6, 0, 0));
        assert!(files(&first.out) != before);
    }
    assert!(fs_err::read_to_string(at("first/long/copy/prompt.txt")).unwrap().contains("the wrist camera"));
    assert_eq!(counts(&imagine(&first).unwrap()), (0, 6, 0));
    assert!(files(&first.out) == before);
    // Damaged files of the cache are named and not used.
    for name in files(&at("cache")).keys() {
        fs_err::write(at("cache").join(name), "damaged").unwrap();
    }
    let error = imagine(&ImagineRequest { out: at("third"), ..first }).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("cache"), "{error}");
    assert!(!at("third").exists());
}

#[test]
fn an_episode_at_fault_ends_the_work_or_is_left_out_and_counted() {
    let input = copy_of_input();
    let folder = tempfile::tempdir().unwrap();
    let whole = request(input.path(), folder.path().join("out"));
    let at = |name: &str| input.path().join(name);
    fs_err::write(at("object/0/posttrain/full/000001/first_frame.png"), "no picture").unwrap();
    let small = w2a_data::encode_png(&[0; 32 * 32 * 3], 32, 32).unwrap();
    fs_err::write(at("long/copy/first_frame.png"), small).unwrap();
    fs_err::remove_file(at("long/1/posttrain/full/000004/prompt.txt")).unwrap();

    // A fault of names is found before anything is imagined.
    let error = imagine(&whole).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("000004"), "{error}");
    assert!(!whole.out.exists());
    let done = imagine(&ImagineRequest { skip_bad: true, ..whole.clone() }).unwrap();
    assert_eq!(counts(&done), (3, 0, 3));
    for (reason, words) in done.skipped.iter().zip([
        "or prompt.txt, got no prompt",
        "64x128, as the world model sees, got one that is 32x32",
        "got one that is no readable PNG",
    ]) {
        assert!(reason.contains(words), "{reason}");
    }
    assert!(done.summary().contains("3 episodes imagined, 0 known before, 3 left out"), "{}", done.summary());
    fs_err::write(at("long/1/posttrain/full/000004/prompt.txt"), "lift").unwrap();
    let error = imagine(&whole).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("long/copy/first_frame.png"), "{error}");
}

#[test]
fn files_of_others_no_world_model_and_results_in_the_input_are_refused() {
    let input = copy_of_input();
    let folder = tempfile::tempdir().unwrap();
    let whole = request(input.path(), folder.path().join("out"));
    let refused = |request: &ImagineRequest| {
        let error = imagine(request).unwrap_err();
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    let foreign = folder.path().join("out/long/copy/latents.safetensors");
    fs_err::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs_err::write(&foreign, "mine").unwrap();
    assert!(refused(&whole).contains("exists already"));
    assert_eq!(fs_err::read_to_string(&foreign).unwrap(), "mine");
    let inside = ImagineRequest { out: input.path().join("results"), ..whole.clone() };
    assert!(refused(&inside).contains("outside of it"));
    let absent = ImagineRequest { world: folder.path().join("absent").into(), ..whole.clone() };
    assert!(refused(&absent).contains("it has no config.toml"));
    let untrained = folder.path().join("untrained");
    fs_err::create_dir_all(&untrained).unwrap();
    fs_err::copy(world().1.join("config.toml"), untrained.join("config.toml")).unwrap();
    assert!(
        refused(&ImagineRequest { world: untrained.into(), ..whole }).contains("world/autoencoder is at step 0 of 8")
    );
    assert!(refused(&request(&folder.path().join("nothing"), folder.path().join("o"))).contains("nothing"));
    fs_err::write(folder.path().join("file"), "").unwrap();
    assert!(refused(&request(input.path(), folder.path().join("file"))).contains("a folder that can be made"));
}

#[test]
fn previews_are_moving_pictures_of_what_was_imagined() {
    let folder = tempfile::tempdir().unwrap();
    let whole = request(&world().2, folder.path().join("out"));
    imagine(&whole).unwrap();
    let latents: Vec<PathBuf> = ["long/copy", "object/0/posttrain/full/000000"]
        .map(|episode| whole.out.join(episode).join("latents.safetensors"))
        .to_vec();
    let request = |out: &str| PreviewRequest {
        latents: latents.clone(),
        world: world().1.clone().into(),
        out: folder.path().join(out),
        count: 9,
    };
    let line = preview(&request("both.gif")).unwrap();
    assert!(line.starts_with("2 of 2 videos, 25 frames each"), "{line}");
    assert!(fs_err::read(folder.path().join("both.gif")).unwrap().starts_with(b"GIF89a"));
    preview(&request("both.png")).unwrap();
    let png = fs_err::read(folder.path().join("both.png")).unwrap();
    assert!(png.windows(4).any(|word| word == b"acTL"));
    match w2a_data::video::ffmpeg() {
        Ok(_) => {
            preview(&request("both.mp4")).unwrap();
            let index = w2a_data::video::Mp4Index::open(folder.path().join("both.mp4")).unwrap();
            assert_eq!(index.len(), 25);
        }
        Err(_) => assert!(preview(&request("both.mp4")).unwrap_err().to_string().contains("install ffmpeg")),
    }
    assert!(matches!(preview(&request("both.gif")), Err(PipelineError::Imagine(_))));
    assert!(preview(&request("both.avi")).unwrap_err().to_string().contains(".gif"));
    // The files of a run hold many videos.
    let run = world().1.join("latents/imagined_tune.safetensors");
    let all = load_latents(&run).unwrap().len();
    let some = PreviewRequest { latents: vec![run], count: 1, ..request("some.gif") };
    assert!(preview(&some).unwrap().starts_with(&format!("1 of {all} videos, 65 frames")));
    let other = folder.path().join("other.safetensors");
    let shape = LatentShape { channels: 1, height: 2, width: 2 };
    save_latents(&other, &[Latents { shape, data: vec![0.0; 8] }]).unwrap();
    let error = preview(&PreviewRequest { latents: vec![other], ..request("other.gif") }).unwrap_err().to_string();
    assert!(error.contains("other.safetensors: expected latents of this world model"), "{error}");
    let foreign = PreviewRequest { latents: vec![folder.path().join("both.gif")], ..request("foreign.gif") };
    assert!(preview(&foreign).unwrap_err().is_users_mistake() && !folder.path().join("foreign.gif").exists());
}
