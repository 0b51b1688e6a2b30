use std::path::Path;

use proptest::prelude::*;

use super::{DType, Dialect, MAX_DEPTH, MAX_VALUES, NdArray, Value, decode, encode};

fn frame(name: &str) -> Vec<u8> {
    fs_err::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/wire").join(name)).unwrap()
}

fn written(value: &Value, dialect: Dialect) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, dialect, &mut out).unwrap();
    out
}

fn refused(message: &[u8], dialect: Dialect) -> String {
    let error = decode(message, dialect).unwrap_err().to_string();
    assert!(error.len() < 400 && error.contains("expected"), "{error}");
    error
}

/// GR00T's form of a .npy file with this header and these elements.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat();
    let file = Value::Bytes(file.into());
    written(&Value::map([("__ndarray_class__", Value::Bool(true)), ("as_npy", file)]), Dialect::Groot)
}

const HEADER: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";

#[test]
fn golden_frames_are_read_and_written_to_the_byte() {
    let report = crate::parity::frames(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/wire")).unwrap();
    assert!(report.holds(), "{report}");
    assert_eq!(report.counts().0, 25);
}

#[test]
fn a_cut_golden_frame_is_refused_wherever_it_is_cut() {
    for name in ["get_action_nested_request.bin", "dtypes_reply.bin", "get_modality_config_reply.bin"] {
        let whole = frame(name);
        for cut in 0..whole.len() {
            refused(&whole[..cut], Dialect::Groot);
        }
        refused(&[&whole[..], &[0xc0]].concat(), Dialect::Groot);
    }
}

#[test]
fn openpi_arrays_are_what_its_own_packer_writes() {
    // msgpack_numpy.packb({"s": np.array([1.5, -2.0], np.float32), "n": np.float32(3.5)}) of openpi-client 0.1.2.
    let golden = b"\x82\xa1s\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08\x00\x00\xc0?\x00\x00\x00\xc0\xc4\x05dtype\
        \xa3<f4\xc4\x05shape\x91\x02\xa1n\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\xcb@\x0c\x00\x00\x00\x00\x00\x00\
        \xc4\x05dtype\xa3<f4";
    let value = decode(golden, Dialect::Openpi).unwrap();
    let array = NdArray::of_f32(vec![2], &[1.5, -2.0]).unwrap();
    assert_eq!(value.get("s"), Some(&Value::Array(array.clone())));
    assert_eq!(value.get("n"), Some(&Value::Float(3.5)));
    assert_eq!(written(&Value::map([("s", Value::Array(array))]), Dialect::Openpi)[1..], golden[1..54]);
}

#[test]
fn a_gigabyte_that_is_claimed_and_not_sent_is_refused_at_once() {
    for marker in [0xdb, 0xc6, 0xdd, 0xdf] {
        refused(&[&[marker][..], &(1_u32 << 30).to_be_bytes(), b"abc"].concat(), Dialect::Groot);
    }
    let claim = HEADER.replace("(2,)", "(16384, 16384)");
    assert!(refused(&npy(&claim, &[0; 8]), Dialect::Groot).contains("1073741824"));
    let overflow = HEADER.replace("(2,)", "(4294967296, 4294967296, 4)");
    assert!(refused(&npy(&overflow, &[]), Dialect::Groot).contains("memory"));
}

#[test]
fn lists_within_lists_end_at_a_depth_and_many_values_at_a_number() {
    assert!(refused(&vec![0x91; 100_000], Dialect::Groot).contains("within one another"));
    assert!(decode(&[&vec![0x91; MAX_DEPTH - 1][..], &[0x90]].concat(), Dialect::Groot).is_ok());
    let count = (MAX_VALUES as u32).to_be_bytes();
    assert!(refused(&[&[0xdd][..], &count, &vec![0xc0; MAX_VALUES]].concat(), Dialect::Groot).contains("262144"));
}

#[test]
fn objects_and_other_strange_types_are_refused_by_name() {
    for descr in
        ["'|O'", "'|V8'", "'|S4'", "'<c8'", "'<f16'", "'<M8[s]'", "'<i3'", "'f4'", "'|f4'", "''", "[('a', '<f4')]"]
    {
        let error = refused(&npy(&HEADER.replace("'<f4'", descr), &[0; 8]), Dialect::Groot);
        assert!(error.contains("dtype") || error.contains("header"), "{descr}: {error}");
    }
}

#[test]
fn headers_of_arrays_that_are_not_numpys_are_refused() {
    let bad = [
        ("{'descr'", "{'desc'"),
        ("'shape': (2,)", "'shape': (-2,)"),
        ("'shape': (2,)", "'shape': (2,), 'shape': (2,)"),
        ("'shape': (2,)", "'shape': [2]"),
        ("'shape': (2,)", "'shape': (99999999999999999999,)"),
        ("False", "__import__('os')"),
        (", }", ", } + 1"),
        ("'shape': (2,), ", ""),
    ];
    for (from, to) in bad {
        refused(&npy(&HEADER.replace(from, to), &[0; 8]), Dialect::Groot);
    }
    assert!(decode(&npy(HEADER, &[0; 8]), Dialect::Groot).is_ok());
    assert!(refused(&npy(&" ".repeat(5000), &[0; 8]), Dialect::Groot).contains("4096"));
    assert!(refused(&npy(HEADER, &[0; 7]), Dialect::Groot).contains("number of bytes"));
}

#[test]
fn maps_with_a_key_twice_or_of_another_kind_are_refused() {
    assert!(refused(b"\x82\xa1a\x01\xa1a\x02", Dialect::Groot).contains("again"));
    assert!(refused(b"\x81\x01\x02", Dialect::Groot).contains("key"));
    assert!(refused(b"\x81\xc4\x01a\x02", Dialect::Groot).contains("key"));
    assert!(refused(b"\x81\xc4\x01a\x02", Dialect::Openpi).contains("array"));
    assert!(refused(b"\x82\xc4\x0b__ndarray__\xc3\xa1a\x01", Dialect::Openpi).contains("one map"));
    assert!(refused(b"\xa1\xff", Dialect::Groot).contains("UTF-8"));
    assert!(refused(b"\xc7\x01\x05a", Dialect::Groot).contains("extension"));
    assert!(refused(b"\xc1", Dialect::Groot).contains("Reserved"));
}

#[test]
fn column_major_arrays_give_their_rows() {
    let array = NdArray::new(DType::U8, vec![2, 3], true, vec![0, 3, 1, 4, 2, 5]).unwrap();
    assert_eq!(array.row_major().as_ref(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(NdArray::new(DType::U8, vec![0, 3], true, vec![]).unwrap().row_major().len(), 0);
}

fn arrays() -> impl Strategy<Value = NdArray<'static>> {
    static TYPES: [&str; 11] = ["<f4", "<f8", ">f4", "<f2", "|u1", "|i1", "<i8", ">u2", "|b1", "<U3", "<U0"];
    (proptest::sample::select(&TYPES[..]), proptest::collection::vec(0_usize..4, 0..4), proptest::bool::ANY)
        .prop_flat_map(|(dtype, shape, fortran)| {
            let dtype: DType = dtype.parse().unwrap();
            let bytes = shape.iter().product::<usize>() * dtype.size();
            proptest::collection::vec(0_u8..128, bytes)
                .prop_map(move |data| NdArray::new(dtype, shape.clone(), fortran, data).unwrap())
        })
}

fn values() -> impl Strategy<Value = Value<'static>> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        proptest::bool::ANY.prop_map(Value::Bool),
        (i64::MIN..i64::MAX).prop_map(Value::Int),
        (-300_i64..300).prop_map(Value::Int),
        (-1e300..1e300).prop_map(Value::Float),
        ".{0,40}".prop_map(|text| Value::Text(text.into())),
        proptest::collection::vec(0_u8.., 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        arrays().prop_map(Value::Array),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::List),
            proptest::collection::btree_map("[a-z]{0,5}", inner, 0..5)
                .prop_map(|map| Value::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_both_dialects(value in values()) {
        let bytes = written(&value, Dialect::Groot);
        prop_assert_eq!(&decode(&bytes, Dialect::Groot).unwrap(), &value);
        let bytes = written(&value, Dialect::Openpi);
        // Column-major arrays arrive row-major there; everything else as it was.
        prop_assert_eq!(written(&decode(&bytes, Dialect::Openpi).unwrap(), Dialect::Openpi), bytes);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(0_u8.., 0..300)) {
        drop(decode(&bytes, Dialect::Groot));
        drop(decode(&bytes, Dialect::Openpi));
    }

    #[test]
    fn a_damaged_frame_is_read_without_panic(place in 0_usize..886, byte in 0_u8..) {
        let mut bytes = frame("get_action_nested_request.bin");
        bytes[place] = byte;
        drop(decode(&bytes, Dialect::Groot));
    }

    #[test]
    fn any_header_is_read_without_panic(header in "[{}()',: a-zA-Z_0-9<|]{0,80}") {
        drop(decode(&npy(&header, &[0; 8]), Dialect::Groot));
    }
}
