use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Dtype, WeightsFile, WeightsFormat, convert};
use crate::{NnError, StateDict, read_state};

fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.pt"))
}

fn open(name: &str) -> WeightsFile {
    WeightsFile::open(&made(name)).unwrap()
}

fn count(n: usize) -> Vec<f32> {
    (0..n).map(|value| value as f32).collect()
}

fn said(error: &NnError) -> String {
    let text = error.to_string();
    assert!(text.len() < 700, "{text}");
    text
}

/// What is said about a file with these bytes.
fn complaint(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    std::fs::write(&path, bytes).unwrap();
    let error = WeightsFile::open(&path).and_then(|file| file.read_all()).unwrap_err();
    assert!(error.to_string().contains("x.pt"), "{error}");
    said(&error)
}

#[test]
fn every_element_type_of_torch_is_read_or_refused_by_name() {
    let file = open("dtypes");
    assert_eq!(file.format(), WeightsFormat::Torch);
    assert_eq!(file.tensors().count(), 13);
    for (name, info) in file.tensors() {
        assert_eq!(info.shape, [2, 3], "{name}");
        let read = file.read(name);
        match name {
            "complex64" | "float8_e4m3fn" => {
                assert!(matches!(info.dtype, Dtype::Unsupported(_)));
                let text = said(&read.unwrap_err());
                assert!(text.contains(name), "{text}");
            }
            "bool" => assert_eq!(read.unwrap().data, [0., 1., 1., 1., 1., 1.]),
            _ => assert_eq!(read.unwrap().data, count(6), "{name}"),
        }
    }
}

#[test]
fn views_are_read_as_what_they_show_in_protocols_2_and_4() {
    for name in ["views", "protocol4"] {
        let file = open(name);
        let read = |name: &str| file.read(name).unwrap();
        let transposed: Vec<f32> = (0..6).flat_map(|x| (0..4).map(move |y| (6 * y + x) as f32)).collect();
        assert_eq!((read("transposed").shape, read("transposed").data), (vec![6, 4], transposed));
        assert_eq!(read("column").data, [2., 8., 14., 20.]);
        assert_eq!(
            (read("every_second").shape, read("every_second").data),
            (vec![2, 3], vec![1., 3., 5., 13., 15., 17.])
        );
        assert_eq!(read("tail").data, count(24)[12..]);
        assert_eq!(read("shared").data, count(24));
        assert_eq!(read("repeated").data, [3., 4., 3., 4., 3., 4.]);
        assert_eq!((read("empty").shape, read("empty").data.len()), (vec![0, 5], 0));
        assert_eq!((read("number").shape, read("number").data), (vec![], vec![2.5]));
        assert_eq!(read("parameter").data, count(3));
        let permuted: Vec<f32> =
            (0..4).flat_map(|c| (0..2).flat_map(move |a| (0..3).map(move |b| (12 * a + 4 * b + c) as f32))).collect();
        assert_eq!(read("permuted").data, permuted);
        let text = said(&file.read("absent").unwrap_err());
        assert!(text.contains("\"absent\"") && text.contains("it has 10"), "{text}");
    }
}

#[test]
fn a_trainers_checkpoint_gives_the_model_and_names_what_was_left_out() {
    let file = open("trainer");
    let names: Vec<&str> = file.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["0.bias", "0.weight", "1.0.bias", "1.0.weight"]);
    assert_eq!(file.read("0.weight").unwrap().data, count(6));
    assert!(file.left_out().iter().any(|name| name == "optimizer.state.0.exp_avg"), "{:?}", file.left_out());
    let names = |name: &str| open(name).tensors().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names("parallel"), ["0.bias", "0.weight", "1.0.bias", "1.0.weight"]);
    assert!(names("two_models").contains(&"ema.0.bias".to_owned()) && names("two_models").len() == 8);
    assert_eq!(names("list"), ["0", "1.inner.0", "1.inner.1"]);
}

#[test]
fn what_is_no_tensor_is_refused_by_name_and_never_run() {
    let refused = |name: &str| said(&WeightsFile::open(&made(name)).unwrap_err());
    let text = refused("shell");
    assert!(text.contains("\"posix.system\"") && text.contains("never executed"), "{text}");
    assert!(refused("whole_model").contains("\"torch.nn.modules.container.Sequential\""), "{}", refused("whole_model"));
    assert!(refused("legacy").contains("before PyTorch 1.6"));
}

#[test]
fn converting_keeps_names_shapes_and_values_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let done = convert(&made("trainer"), &first).unwrap();
    assert_eq!((done.tensors, done.elements, done.left_out.is_empty()), (4, 12, false));
    assert_eq!(WeightsFile::open(&first).unwrap().format(), WeightsFormat::Safetensors);
    assert_eq!(read_state(&first).unwrap(), read_state(&made("trainer")).unwrap());
    let text = said(&convert(&made("trainer"), &first).unwrap_err());
    assert!(text.contains("a.safetensors") && text.contains("existing"), "{text}");
    // The reference implementation agrees, and so does a second conversion.
    let bytes = std::fs::read(&first).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("0.weight").unwrap().shape(), [2, 3]);
    convert(&first, &second).unwrap();
    assert_eq!(std::fs::read(&second).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(said(&convert(&made("dtypes"), &folder.path().join("c")).unwrap_err()).contains("complex64"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a failed conversion left something");
}

#[test]
fn other_safetensors_types_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let header = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[],"data_offsets":[4,6]},"c":{"dtype":"I64","shape":[1],"data_offsets":[6,14]},"d":{"dtype":"F64","shape":[1],"data_offsets":[14,22]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3c]);
    bytes.extend((-5_i64).to_le_bytes());
    bytes.extend(0.25_f64.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let state: StateDict = read_state(&path).unwrap();
    let values: Vec<f32> = state.values().flat_map(|array| array.data.clone()).collect();
    assert_eq!(values, [1.0, -2.0, 1.0, -5.0, 0.25]);
    // Any length but the right one is an error.
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(said(&WeightsFile::open(&path).unwrap_err()).contains("x.safetensors"));
}

/// A ZIP archive of stored entries, as `torch.save` writes it but for alignment and 64-bit records.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let mut common = vec![0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc32fast::hash(data).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(b"PK\x03\x04\x00\x00");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x00\x00\x00\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// The instructions for one tensor over storage `0`, which claims `len` elements.
fn tensor(len: i32, offset: i32, shape: &[i32], stride: &[i32]) -> Vec<u8> {
    let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i32]| {
        let items: Vec<u8> = values.iter().flat_map(|&value| int(value)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpu"[..],
        &int(len),
        b"tQ",
        &int(offset),
        &tuple(shape),
        &tuple(stride),
        b"\x89}tR",
    ]
    .concat()
}

/// A checkpoint `{"x": <body>}` with one storage of four numbers.
fn checkpoint(body: &[u8]) -> Vec<u8> {
    let pickle = [b"\x80\x02}(\x8c\x01x", body, b"u."].concat();
    let numbers: Vec<u8> = (1..=4_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"little"), ("a/data/0", &numbers)])
}

#[test]
fn the_archives_of_these_tests_are_readable_to_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    std::fs::write(&path, checkpoint(&tensor(4, 1, &[1, 3], &[3, 1]))).unwrap();
    let state = read_state(&path).unwrap();
    assert_eq!((&state["x"].shape, &state["x"].data), (&vec![1, 3], &vec![2., 3., 4.]));
}

#[test]
fn tensors_that_claim_more_than_is_there_are_refused_by_name() {
    for (body, expected) in [
        (tensor(1 << 30, 0, &[4], &[1]), "storage of 1073741824 elements in 16 bytes"),
        (tensor(4, 0, &[5], &[1]), "does not fit"),
        (tensor(4, 2, &[3], &[1]), "does not fit"),
        (tensor(4, 0, &[2, 2], &[3, 1]), "does not fit"),
        (tensor(4, 0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]), "does not fit"),
        (tensor(4, 0, &[i32::MAX], &[0]), "does not fit"),
        (tensor(4, i32::MAX, &[i32::MAX, i32::MAX], &[i32::MAX, i32::MAX]), "does not fit"),
        (tensor(4, 3, &[4], &[-1]), "negative"),
        (tensor(4, -1, &[1], &[1]), "negative"),
        (tensor(4, 0, &[2, 2], &[2]), "2 sizes and 1 strides"),
    ] {
        let text = complaint(&checkpoint(&body));
        assert!(text.contains("\"x\"") && text.contains(expected), "{text}");
    }
    let sixteen = [1; 17];
    assert!(complaint(&checkpoint(&tensor(4, 0, &sixteen, &sixteen))).contains("do not fit"));
}

#[test]
fn pickles_that_would_fill_the_memory_are_refused() {
    // A list of ten lists of ten lists ..., each the same one: 10^16 values in a few hundred bytes.
    let mut bomb = b"]q\x00".to_vec();
    for level in 0..16_u8 {
        bomb.extend(b"](");
        (0..10).for_each(|_| bomb.extend([b'h', level]));
        bomb.extend([b'e', b'q', level + 1]);
    }
    assert!(complaint(&checkpoint(&bomb)).contains("number of values"));
    // A list that contains itself.
    assert!(complaint(&checkpoint(b"]q\x00h\x00a")).contains("nesting"));
    let deep = [vec![b']'; 200], vec![b'a'; 199]].concat();
    assert!(complaint(&checkpoint(&deep)).contains("nesting"));
    assert!(complaint(&checkpoint(&vec![b']'; 3 << 20])).contains("number of containers"));
    let many = [&b"]q\x00"[..], &vec![0x94; 3 << 20]].concat();
    assert!(complaint(&checkpoint(&many)).contains("remembered"));
    let long = [&b"]\x8d"[..], &u64::MAX.to_le_bytes()].concat();
    assert!(complaint(&checkpoint(&long)).contains("truncated"));
    // Text and numbers that claim gigabytes.
    assert!(complaint(&checkpoint(b"X\xff\xff\xff\xff")).contains("truncated"));
    assert!(complaint(&checkpoint(b"\x8b\xff\xff\xff\x7f")).contains("truncated"));
}

#[test]
fn whatever_else_a_pickle_may_do_is_refused() {
    for (body, expected) in [
        (&b"cos\nsystem\n(\x8c\x02lstR"[..], "\"os.system\""),
        (b"\x8c\x08builtins\x8c\x04eval\x93", "\"builtins.eval\""),
        (b"cnumpy.core.multiarray\n_reconstruct\n", "\"numpy.core.multiarray._reconstruct\""),
        (b"ctorch\nload\n", "\"torch.load\""),
        (b"ctorch.storage\nfloat32\n", "\"torch.storage.float32\""),
        (b"ctorch\nFloatStorage\n)R", "no tensor"),
        (b"ccollections\nOrderedDict\n\x8c\x01a\x85R", "made from a list"),
        (b"Pid\n", "0x50"),
        (b"K\x01b", "no container"),
        (b"h\x07", "did not remember"),
        (b"R", "empty stack"),
        (b"}K\x01a", "no list"),
        (b"]K\x01K\x02s", "no dictionary"),
        (b"(K\x01Q", "outside"),
        (b"X\x01\x00\x00\x00\xff", "UTF-8"),
        (b"t", "not opened"),
    ] {
        let text = complaint(&checkpoint(body));
        assert!(text.contains(expected), "{body:?}: {text}");
    }
}

#[test]
fn archives_that_are_not_quite_torchs_say_why() {
    let pickle = [b"\x80\x02}(\x8c\x01x", &tensor(4, 0, &[4], &[1])[..], b"u."].concat();
    let numbers = [0_u8; 16];
    assert!(complaint(&archive(&[("a/data.pkl", &pickle)])).contains("a/data/0"));
    assert!(complaint(&archive(&[("a/other", &pickle)])).contains("no data.pkl"));
    let big = archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"big"), ("a/data/0", &numbers)]);
    assert!(complaint(&big).contains("byte order \"big\""));
    let good = archive(&[("a/data.pkl", &pickle), ("a/data/0", &numbers)]);
    // One flipped bit in the values, one in the pickle.
    let at = good.windows(16).position(|window| window == numbers).unwrap();
    let mut flipped = good.clone();
    flipped[at] ^= 1;
    assert!(complaint(&flipped).contains("checksum of tensor \"x\""));
    // Compressed and encrypted entries.
    let find = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).unwrap();
    let mut deflated = good.clone();
    deflated[find(b"PK\x01\x02") + 10] = 8;
    assert!(complaint(&deflated).contains("compressed (method 8)"));
    let mut locked = good.clone();
    locked[find(b"PK\x01\x02") + 8] = 1;
    assert!(complaint(&locked).contains("encrypted"));
    assert!(complaint(b"hello, world, this is text").contains("hello, world"));
    assert!(complaint(b"").contains("none"));
    let text = said(&WeightsFile::open(Path::new("absent.pt")).unwrap_err());
    assert!(text.contains("absent.pt"), "{text}");
    assert!(said(&WeightsFile::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err()).contains("folder"));
}

#[test]
fn a_checkpoint_cut_anywhere_is_an_error() {
    let whole = std::fs::read(made("list")).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        complaint(&whole[..cut]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_crash_the_reader(
        damage in proptest::collection::vec((0..10_000_usize, any::<u8>()), 1..8),
        which in 0..3_usize,
    ) {
        let mut bytes = std::fs::read(made(["views", "trainer", "list"][which])).unwrap();
        let len = bytes.len();
        damage.iter().for_each(|&(at, value)| bytes[at % len] = value);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = WeightsFile::open(&path) {
            let _ = file.read_all();
        }
    }

    #[test]
    fn arbitrary_pickles_never_crash_the_machine(
        body in proptest::collection::vec(
            prop_oneof![
                Just(b"(".to_vec()), Just(b"}".to_vec()), Just(b"]".to_vec()), Just(b"t".to_vec()), Just(b"u".to_vec()),
                Just(b"e".to_vec()), Just(b"q\x00".to_vec()), Just(b"h\x00".to_vec()), Just(b"K\x01".to_vec()),
                Just(b"R".to_vec()), Just(b"Q".to_vec()), Just(b"b".to_vec()), Just(b"2".to_vec()), Just(b"0".to_vec()),
                Just(b"\x8c\x01k".to_vec()), Just(b"ccollections\nOrderedDict\n".to_vec()), Just(b")".to_vec()),
                Just(tensor(4, 0, &[4], &[1])), proptest::collection::vec(any::<u8>(), 1..4),
            ],
            0..40,
        ),
    ) {
        let bytes = checkpoint(&body.concat());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = WeightsFile::open(&path) {
            let _ = file.read_all();
        }
    }
}
