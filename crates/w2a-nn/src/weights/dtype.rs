//! Element types of stored tensors, and their conversion to `f32`.

/// How a file stores the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double; rounded to the nearest `f32`.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half; exact in `f32`.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// Signed integers; exact in `f32` up to 2^24, rounded above.
    I64,
    /// As `I64`.
    I32,
    /// Exact in `f32`.
    I16,
    /// Exact in `f32`.
    I8,
    /// As `I64`.
    U64,
    /// As `I64`.
    U32,
    /// Exact in `f32`.
    U16,
    /// Exact in `f32`.
    U8,
    /// One byte; 0 is 0, anything else 1.
    Bool,
    /// Listed, but not readable: complex, quantised and 8-bit floating numbers. Holds the file's own name for it.
    Unsupported(&'static str),
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(name) => f.write_str(name),
            known => write!(f, "{known:?}"),
        }
    }
}

impl Dtype {
    /// Bytes of one element; 0 for unsupported types.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Unsupported(_) => 0,
        }
    }

    pub(crate) fn of_safetensors(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as S;
        match dtype {
            S::F64 => Self::F64,
            S::F32 => Self::F32,
            S::F16 => Self::F16,
            S::BF16 => Self::BF16,
            S::I64 => Self::I64,
            S::I32 => Self::I32,
            S::I16 => Self::I16,
            S::I8 => Self::I8,
            S::U64 => Self::U64,
            S::U32 => Self::U32,
            S::U16 => Self::U16,
            S::U8 => Self::U8,
            S::BOOL => Self::Bool,
            S::C64 => Self::Unsupported("C64"),
            S::F8_E5M2 => Self::Unsupported("F8_E5M2"),
            S::F8_E4M3 => Self::Unsupported("F8_E4M3"),
            _ => Self::Unsupported("a type of fewer than 8 bits or without sign and mantissa"),
        }
    }

    /// The element type of PyTorch's `torch.<name>`, such as `float32`.
    pub(crate) fn of_torch(name: &str) -> Option<Self> {
        Some(match name {
            "float64" | "double" => Self::F64,
            "float32" | "float" => Self::F32,
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::BF16,
            "int64" | "long" => Self::I64,
            "int32" | "int" => Self::I32,
            "int16" | "short" => Self::I16,
            "int8" => Self::I8,
            "uint64" => Self::U64,
            "uint32" => Self::U32,
            "uint16" => Self::U16,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            "float8_e4m3fn" => Self::Unsupported("float8_e4m3fn"),
            "float8_e5m2" => Self::Unsupported("float8_e5m2"),
            "complex32" => Self::Unsupported("complex32"),
            "complex64" => Self::Unsupported("complex64"),
            "complex128" => Self::Unsupported("complex128"),
            _ => return None,
        })
    }

    /// The element type of PyTorch's `torch.<name>`, such as `FloatStorage`. Untyped storages count bytes.
    pub(crate) fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" | "UntypedStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            "ComplexFloatStorage" => Self::Unsupported("complex64"),
            "ComplexDoubleStorage" => Self::Unsupported("complex128"),
            "QInt8Storage" => Self::Unsupported("qint8"),
            "QUInt8Storage" => Self::Unsupported("quint8"),
            "QInt32Storage" => Self::Unsupported("qint32"),
            _ => return None,
        })
    }

    /// Appends the elements in `bytes` (little-endian) to `out`. Bytes past the last whole element are left aside.
    pub(crate) fn append(self, bytes: &[u8], out: &mut Vec<f32>) {
        macro_rules! numbers {
            ($type:ty) => {
                out.extend(bytes.chunks_exact(size_of::<$type>()).map(|element| {
                    let mut whole = [0; size_of::<$type>()];
                    whole.copy_from_slice(element);
                    <$type>::from_le_bytes(whole) as f32
                }))
            };
        }
        let halves = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self {
            Self::F64 => numbers!(f64),
            Self::F32 => numbers!(f32),
            Self::F16 => out.extend(halves().map(half)),
            Self::BF16 => out.extend(halves().map(|bits| f32::from_bits(u32::from(bits) << 16))),
            Self::I64 => numbers!(i64),
            Self::I32 => numbers!(i32),
            Self::I16 => numbers!(i16),
            Self::I8 => numbers!(i8),
            Self::U64 => numbers!(u64),
            Self::U32 => numbers!(u32),
            Self::U16 => numbers!(u16),
            Self::U8 => numbers!(u8),
            Self::Bool => out.extend(bytes.iter().map(|&byte| f32::from(u8::from(byte != 0)))),
            Self::Unsupported(_) => {}
        }
    }
}

/// The value of an IEEE half.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    match exponent {
        // Subnormal: the mantissa counts units of 2^-24, all of which are normal numbers in f32.
        0 => f32::from_bits(sign | (mantissa as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::{Dtype, half};

    fn one(dtype: Dtype, bytes: &[u8]) -> f32 {
        let mut out = Vec::new();
        dtype.append(bytes, &mut out);
        assert_eq!(out.len(), 1, "{dtype}");
        out[0]
    }

    #[test]
    fn every_half_has_the_value_of_its_definition() {
        for bits in 0..=u16::MAX {
            let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
            let size = match exponent {
                0 => mantissa * 2_f64.powi(-24),
                0x1f if mantissa == 0.0 => f64::INFINITY,
                0x1f => f64::NAN,
                _ => (1.0 + mantissa / 1024.0) * 2_f64.powi(exponent - 15),
            };
            let expected = (if bits & 0x8000 == 0 { size } else { -size }) as f32;
            let got = half(bits);
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn each_type_is_read_as_its_value() {
        assert_eq!(one(Dtype::F64, &0.1_f64.to_le_bytes()), 0.1);
        assert_eq!(one(Dtype::F32, &(-2.5_f32).to_le_bytes()), -2.5);
        assert_eq!(one(Dtype::BF16, &[0xc0, 0x3f]), 1.5);
        assert_eq!(one(Dtype::F16, &[0x00, 0xc0]), -2.0);
        assert_eq!(one(Dtype::I64, &(-3_i64).to_le_bytes()), -3.0);
        assert_eq!(one(Dtype::I32, &7_i32.to_le_bytes()), 7.0);
        assert_eq!(one(Dtype::I16, &(-7_i16).to_le_bytes()), -7.0);
        assert_eq!(one(Dtype::I8, &[0xff]), -1.0);
        assert_eq!(one(Dtype::U8, &[0xff]), 255.0);
        assert_eq!((one(Dtype::Bool, &[2]), one(Dtype::Bool, &[0])), (1.0, 0.0));
    }
}
