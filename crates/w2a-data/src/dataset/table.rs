//! Flat parquet tables as LeRobot lays them out, read and written at the level of columns.
//!
//! Every column is dense: a scalar, a list of fixed width, or an image (`struct {bytes, path}`). Everything is declared
//! optional, as pyarrow does, so that other readers see the types they are used to.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use super::error::DatasetError;

/// Rows decoded at a time: bounds what a hostile length can make us allocate before data has been seen.
const BATCH_ROWS: usize = 1024;

/// How the values of one row are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One value.
    Scalar,
    /// A list nested this deep; all but the first axis have length 1.
    List { depth: usize },
    /// PNG bytes and a file name.
    Image,
}

/// A column to write.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub layout: Layout,
    pub physical: Physical,
}

/// The values of one column for some rows, row-major.
#[derive(Clone, Debug)]
pub(super) enum Cells {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Text(Vec<ByteArray>),
    Image { png: Vec<ByteArray>, path: Vec<ByteArray> },
}

impl Cells {
    /// The column type these values are written as.
    fn physical(&self) -> Physical {
        match self {
            Self::F32(_) => Physical::FLOAT,
            Self::F64(_) => Physical::DOUBLE,
            Self::I64(_) => Physical::INT64,
            Self::Text(_) | Self::Image { .. } => Physical::BYTE_ARRAY,
        }
    }

    /// UTF-8 strings.
    pub fn text<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Text(texts.into_iter().map(|text| ByteArray::from(text.as_bytes().to_vec())).collect())
    }
}

impl Field {
    /// The column of `name` that takes such `cells`.
    pub fn new(name: impl Into<String>, layout: Layout, cells: &Cells) -> Self {
        Self { name: name.into(), layout, physical: cells.physical() }
    }

    fn schema(&self) -> Result<Type, parquet::errors::ParquetError> {
        let leaf = |name: &str, physical, text: bool| {
            Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_logical_type(text.then_some(LogicalType::String))
                .build()
        };
        let is_text = self.physical == Physical::BYTE_ARRAY;
        match self.layout {
            Layout::Scalar => leaf(&self.name, self.physical, is_text),
            Layout::Image => Type::group_type_builder(&self.name)
                .with_repetition(Repetition::OPTIONAL)
                .with_fields(vec![
                    Arc::new(leaf("bytes", Physical::BYTE_ARRAY, false)?),
                    Arc::new(leaf("path", Physical::BYTE_ARRAY, true)?),
                ])
                .build(),
            Layout::List { depth } => {
                let mut inner = if depth == 0 {
                    return leaf(&self.name, self.physical, is_text);
                } else {
                    leaf("element", self.physical, is_text)?
                };
                for level in 0..depth {
                    let repeated = Type::group_type_builder("list")
                        .with_repetition(Repetition::REPEATED)
                        .with_fields(vec![Arc::new(inner)])
                        .build()?;
                    let name = if level + 1 == depth { self.name.as_str() } else { "element" };
                    inner = Type::group_type_builder(name)
                        .with_repetition(Repetition::OPTIONAL)
                        .with_logical_type(Some(LogicalType::List))
                        .with_fields(vec![Arc::new(repeated)])
                        .build()?;
                }
                Ok(inner)
            }
        }
    }

    /// Definition level of a value that is present.
    fn max_def(&self) -> i16 {
        match self.layout {
            Layout::Scalar => 1,
            Layout::Image => 2,
            Layout::List { depth } => 1 + 2 * depth as i16,
        }
    }
}

/// A parquet file being written, one row group at a time.
pub(super) struct TableWriter {
    path: PathBuf,
    fields: Vec<Field>,
    writer: SerializedFileWriter<File>,
}

impl TableWriter {
    /// Creates `path`; `key_values` go to the footer.
    pub fn create(path: &Path, fields: Vec<Field>, key_values: Vec<(String, String)>) -> Result<Self, DatasetError> {
        let attach = || DatasetError::parquet("creating", path);
        let columns = fields.iter().map(|field| field.schema().map(Arc::new)).collect::<Result<Vec<TypePtr>, _>>();
        let schema = Type::group_type_builder("schema").with_fields(columns.map_err(attach())?).build();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_key_value_metadata(Some(
                key_values.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            ));
        for field in fields.iter().filter(|field| field.layout == Layout::Image) {
            // PNG is compressed already, and its smallest and largest bytes mean nothing.
            let column = ColumnPath::new(vec![field.name.clone(), "bytes".into()]);
            properties = properties
                .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
                .set_column_statistics_enabled(column, EnabledStatistics::None);
        }
        let file = File::create(path).map_err(DatasetError::io("creating", path))?;
        let schema = Arc::new(schema.map_err(attach())?);
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build())).map_err(attach())?;
        Ok(Self { path: path.to_owned(), fields, writer })
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Appends `rows` rows as one row group; `columns` are in the order of the fields.
    pub fn write(&mut self, rows: usize, columns: &[Cells]) -> Result<(), DatasetError> {
        let attach = || DatasetError::parquet("writing", &self.path);
        debug_assert_eq!(columns.len(), self.fields.len());
        let mut group = self.writer.next_row_group().map_err(attach())?;
        for (field, cells) in self.fields.iter().zip(columns) {
            debug_assert_eq!(cells.physical(), field.physical);
            match cells {
                Cells::F32(values) => put::<FloatType>(&mut group, field, rows, values),
                Cells::F64(values) => put::<DoubleType>(&mut group, field, rows, values),
                Cells::I64(values) => put::<Int64Type>(&mut group, field, rows, values),
                Cells::Text(values) => put::<ByteArrayType>(&mut group, field, rows, values),
                Cells::Image { png, path } => put::<ByteArrayType>(&mut group, field, rows, png)
                    .and_then(|()| put::<ByteArrayType>(&mut group, field, rows, path)),
            }
            .map_err(attach())?;
        }
        group.close().map_err(attach())?;
        Ok(())
    }

    /// Writes the footer and waits until the file is on disk.
    pub fn finish(mut self) -> Result<(), DatasetError> {
        self.writer.finish().map_err(DatasetError::parquet("finishing", &self.path))?;
        self.writer.inner().sync_all().map_err(DatasetError::io("syncing", &self.path))
    }
}

/// Writes the next leaf column of a row group.
fn put<T: DataType>(
    group: &mut parquet::file::writer::SerializedRowGroupWriter<'_, File>,
    field: &Field,
    rows: usize,
    values: &[T::T],
) -> Result<(), parquet::errors::ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| parquet::errors::ParquetError::General(format!("no column left for {}", field.name)))?;
    let definitions = vec![field.max_def(); values.len()];
    // The outer axis repeats at level 1; inner axes have length 1 and never repeat.
    let width = values.len().checked_div(rows).unwrap_or(0).max(1);
    let repetitions: Option<Vec<i16>> = matches!(field.layout, Layout::List { depth } if depth > 0)
        .then(|| (0..values.len()).map(|position| i16::from(position % width != 0)).collect());
    column.typed::<T>().write_batch(values, Some(&definitions), repetitions.as_deref())?;
    column.close()
}

/// A parquet file opened for reading; only its footer has been read.
pub(super) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    rows: usize,
}

const DAMAGED: &str = "the file is damaged; restore it from its source";
const OTHER_LAYOUT: &str = "the file was written with another layout; convert it with LeRobot";

impl Table {
    /// Opens `path` and checks every size and offset of its footer against the file.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let file = File::open(path).map_err(DatasetError::io("opening", path))?;
        let size = file.metadata().map_err(DatasetError::io("reading the size of", path))?.len();
        let reader = guarded("reading the footer of", path, || SerializedFileReader::new(file))?;
        let mut rows = 0_usize;
        for (index, group) in reader.metadata().row_groups().iter().enumerate() {
            let bad = |what: &str, got: i64| {
                let what = format!("{what} of row group {index}");
                DatasetError::mismatch(path, what, got, format!("a position within the {size} bytes"), DAMAGED)
            };
            rows = usize::try_from(group.num_rows())
                .ok()
                .and_then(|count| rows.checked_add(count))
                .ok_or_else(|| bad("row count", group.num_rows()))?;
            for column in group.columns() {
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                let inside = |start: i64| {
                    let length = u64::try_from(column.compressed_size()).ok()?;
                    u64::try_from(start).ok()?.checked_add(length).filter(|&end| end <= size)
                };
                if inside(start).is_none() || column.data_page_offset() < 0 {
                    return Err(bad(&format!("column {:?}", column.column_path().string()), start));
                }
            }
        }
        Ok(Self { path: path.to_owned(), reader, rows })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is a column (of any layout) of this name.
    pub fn has(&self, name: &str) -> bool {
        self.leaf(name).is_ok()
    }

    /// The leaf that holds the values of column `name`; of an image, its bytes.
    fn leaf(&self, name: &str) -> Result<(usize, Physical), DatasetError> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        for (index, column) in schema.columns().iter().enumerate() {
            let parts = column.path().parts();
            let is_other_member = parts.len() == 2 && parts[1] != "bytes";
            if parts.first().is_some_and(|first| first == name) && !is_other_member {
                return Ok((index, column.physical_type()));
            }
        }
        Err(DatasetError::mismatch(&self.path, format!("column {name:?}"), "missing", "present", OTHER_LAYOUT))
    }

    /// Whole numbers of a scalar column.
    pub fn integers(&self, name: &str, rows: Range<usize>) -> Result<Vec<i64>, DatasetError> {
        let (leaf, physical) = self.leaf(name)?;
        let mut out = Vec::new();
        match physical {
            Physical::INT64 => self.read::<Int64Type>(name, leaf, rows, Some(1), |_, values| {
                out.extend_from_slice(values);
                Ok(())
            }),
            Physical::INT32 => self.read::<Int32Type>(name, leaf, rows, Some(1), |_, values| {
                out.extend(values.iter().map(|&value| i64::from(value)));
                Ok(())
            }),
            other => Err(self.wrong_type(name, other, "INT64 or INT32")),
        }?;
        Ok(out)
    }

    /// Numbers of a column whose rows all have `width` values, as `[rows, width]`; doubles are rounded to `f32`.
    pub fn floats(&self, name: &str, rows: Range<usize>, width: usize) -> Result<Vec<f32>, DatasetError> {
        let (leaf, physical) = self.leaf(name)?;
        let mut out = Vec::new();
        match physical {
            Physical::FLOAT => self.read::<FloatType>(name, leaf, rows, Some(width), |_, values| {
                out.extend_from_slice(values);
                Ok(())
            }),
            Physical::DOUBLE => self.read::<DoubleType>(name, leaf, rows, Some(width), |_, values| {
                out.extend(values.iter().map(|&value| value as f32));
                Ok(())
            }),
            other => Err(self.wrong_type(name, other, "FLOAT or DOUBLE")),
        }?;
        Ok(out)
    }

    /// Numbers of a scalar column, unrounded.
    pub fn doubles(&self, name: &str, rows: Range<usize>) -> Result<Vec<f64>, DatasetError> {
        let (leaf, physical) = self.leaf(name)?;
        let mut out = Vec::new();
        match physical {
            Physical::FLOAT => self.read::<FloatType>(name, leaf, rows, Some(1), |_, values| {
                out.extend(values.iter().map(|&value| f64::from(value)));
                Ok(())
            }),
            Physical::DOUBLE => self.read::<DoubleType>(name, leaf, rows, Some(1), |_, values| {
                out.extend_from_slice(values);
                Ok(())
            }),
            other => Err(self.wrong_type(name, other, "FLOAT or DOUBLE")),
        }?;
        Ok(out)
    }

    /// Lists of UTF-8 strings; a scalar column gives lists of one.
    pub fn texts(&self, name: &str, rows: Range<usize>) -> Result<Vec<Vec<String>>, DatasetError> {
        let mut out = Vec::new();
        self.byte_arrays(name, rows, None, |row, values| {
            let texts = values.iter().map(|value| value.as_utf8().map(str::to_owned)).collect::<Result<Vec<_>, _>>();
            let texts = texts.map_err(|_| {
                let what = format!("row {row} of column {name:?}");
                DatasetError::mismatch(&self.path, what, "no UTF-8", "text", DAMAGED)
            })?;
            out.push(texts);
            Ok(())
        })?;
        Ok(out)
    }

    /// Calls `each` with the row (counted from the start of the file) and the bytes of every image.
    pub fn images(
        &self,
        name: &str,
        rows: Range<usize>,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        self.byte_arrays(name, rows, Some(1), |row, values| each(row, values[0].data()))
    }

    fn byte_arrays(
        &self,
        name: &str,
        rows: Range<usize>,
        width: Option<usize>,
        mut each: impl FnMut(usize, &[ByteArray]) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        let (leaf, physical) = self.leaf(name)?;
        if physical != Physical::BYTE_ARRAY {
            return Err(self.wrong_type(name, physical, "BYTE_ARRAY"));
        }
        self.read::<ByteArrayType>(name, leaf, rows, width, &mut each)
    }

    fn wrong_type(&self, name: &str, got: Physical, expected: &str) -> DatasetError {
        DatasetError::mismatch(&self.path, format!("type of column {name:?}"), got, expected, OTHER_LAYOUT)
    }

    /// Calls `each` with every row and its values, which must be present; `width` fixes their number.
    fn read<T: DataType>(
        &self,
        name: &str,
        leaf: usize,
        rows: Range<usize>,
        width: Option<usize>,
        mut each: impl FnMut(usize, &[T::T]) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        let bad = |row: usize, got: String, expected: String| {
            let what = format!("row {row} of column {name:?}");
            DatasetError::mismatch(&self.path, what, got, expected, OTHER_LAYOUT)
        };
        let descriptor = self.reader.metadata().file_metadata().schema_descr().column(leaf);
        let (max_def, max_rep) = (descriptor.max_def_level(), descriptor.max_rep_level());
        let (mut group_start, mut row) = (0, rows.start);
        for (index, group) in self.reader.metadata().row_groups().iter().enumerate() {
            let group_end = group_start + group.num_rows() as usize;
            if row >= group_start && row < group_end.min(rows.end) {
                let mut reader = guarded("opening a column of", &self.path, || {
                    let reader = self.reader.get_row_group(index)?.get_column_reader(leaf)?;
                    let mut reader = get_typed_column_reader::<T>(reader);
                    reader.skip_records(row - group_start)?;
                    Ok(reader)
                })?;
                while row < group_end.min(rows.end) {
                    let wanted = BATCH_ROWS.min(group_end.min(rows.end) - row);
                    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
                    let (records, _, levels) = guarded("reading", &self.path, || {
                        reader.read_records(wanted, Some(&mut definitions), Some(&mut repetitions), &mut values)
                    })?;
                    if records == 0 {
                        return Err(bad(row, "missing".into(), format!("one of {} rows", self.rows)));
                    }
                    let null = definitions.iter().position(|&level| level != max_def);
                    if null.is_some() || (max_def > 0 && values.len() != levels) {
                        return Err(bad(row + null.unwrap_or(0), "null".into(), "a value".into()));
                    }
                    let mut start = 0;
                    for _ in 0..records {
                        let mut end = (start + 1).min(values.len());
                        while max_rep > 0 && end < values.len() && repetitions.get(end).is_some_and(|&level| level > 0)
                        {
                            end += 1;
                        }
                        let got = end - start;
                        if width.is_some_and(|width| width != got) || got == 0 {
                            let expected = width.map_or("at least 1".to_owned(), |width| width.to_string());
                            return Err(bad(row, format!("{got} values"), format!("{expected} values")));
                        }
                        each(row, &values[start..end])?;
                        (start, row) = (end, row + 1);
                    }
                }
            }
            group_start = group_end;
        }
        if row != rows.end {
            return Err(bad(row, "missing".into(), format!("one of {} rows", rows.end)));
        }
        Ok(())
    }
}

/// Runs a step of the parquet library on untrusted bytes.
///
/// The library turns most damage into errors but still asserts in places (that a dictionary came before the pages
/// that use it, for one); a damaged file must never end the process, so a panic inside it becomes an error too.
fn guarded<R>(
    operation: &'static str,
    path: &Path,
    step: impl FnOnce() -> Result<R, parquet::errors::ParquetError>,
) -> Result<R, DatasetError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)) {
        Ok(result) => result.map_err(DatasetError::parquet(operation, path)),
        Err(_) => {
            let source = parquet::errors::ParquetError::General("the decoder gave up on inconsistent data".into());
            Err(DatasetError::Parquet { operation, file: path.to_owned(), source })
        }
    }
}
