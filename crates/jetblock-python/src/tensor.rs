//! Arrays of Python seen from Rust: `torch.Tensor` on the CPU and `numpy.ndarray`, without a copy.
//!
//! An array is its address, element type, shape and strides. What an operator needs as a slice is one where the elements
//! lie in order and have its type; anything else is copied once, in logical order, and widened exactly.
#![allow(
    unsafe_code,
    reason = "memory that Python owns is read and written in place"
)]

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

use jetblock_numerics::round;
use jetblock_ops::{Floats, FloatsMut};
use jetblock_simd::Cpu;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::convert::{Buffer, Values};
use crate::error::argument;
use crate::pool;

/// Element types. `name` is the one in digests (NUMERICS.md section 12) and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
}

macro_rules! elements {
    ($($constant:ident $name:literal $size:literal $python:literal,)*) => {
        impl Element {
            $(pub(crate) const $constant: Element = Element { name: $name, size: $size };)*

            /// By its name in PyTorch, NumPy and ml_dtypes, such as `float32`.
            fn of_python(name: &str) -> Option<Element> {
                match name { $($python => Some(Element::$constant),)* _ => None }
            }
        }
    };
}

elements! {
    F32 "f32" 4 "float32",
    BF16 "bf16" 2 "bfloat16",
    F16 "f16" 2 "float16",
    F64 "f64" 8 "float64",
    I64 "i64" 8 "int64",
    I32 "i32" 4 "int32",
    I16 "i16" 2 "int16",
    I8 "i8" 1 "int8",
    U64 "u64" 8 "uint64",
    U32 "u32" 4 "uint32",
    U16 "u16" 2 "uint16",
    U8 "u8" 1 "uint8",
    BOOL "bool" 1 "bool",
    E4M3 "e4m3" 1 "float8_e4m3fn",
    E5M2 "e5m2" 1 "float8_e5m2",
}

/// Elements worth a thread of their own when they are read or written.
pub(crate) const GRAIN: usize = 1 << 15;

/// An array of Python. It holds a reference, so its memory stays as long as nobody resizes it, which PyTorch and NumPy
/// ask of every caller of their own functions too.
pub(crate) struct Tensor<'py> {
    /// Keeps the memory.
    _owner: Bound<'py, PyAny>,
    data: *mut u8,
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    /// In bytes.
    strides: Vec<isize>,
    writable: bool,
}

impl<'a, 'py> FromPyObject<'a, 'py> for Tensor<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Tensor<'py>> {
        let py = object.py();
        let kind = object.get_type();
        if object.hasattr(intern!(py, "data_ptr"))? {
            Tensor::of_torch(&object)
        } else if let Ok(interface) = object.getattr(intern!(py, "__array_interface__")) {
            Tensor::of_numpy(&object, interface.cast::<PyDict>()?)
        } else {
            Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "expected a torch.Tensor or a numpy.ndarray, got {}",
                kind.name()?
            )))
        }
    }
}

impl<'py> Tensor<'py> {
    fn of_torch(tensor: &Bound<'py, PyAny>) -> PyResult<Tensor<'py>> {
        let py = tensor.py();
        let get = |name| tensor.getattr(name);
        if !get(intern!(py, "is_cpu"))?.extract::<bool>()? {
            let device = get(intern!(py, "device"))?;
            return Err(argument(format!("the tensor is on {device}, expected cpu")));
        }
        let layout = get(intern!(py, "layout"))?.to_string();
        if layout != "torch.strided" {
            return Err(argument(format!(
                "the tensor is {layout}, expected torch.strided"
            )));
        }
        // A view of a complex tensor may carry its minus sign as a mark beside the memory.
        if tensor
            .call_method0(intern!(py, "is_neg"))?
            .extract::<bool>()?
        {
            return Err(argument(
                "the tensor has a pending negation, expected tensor.resolve_neg()",
            ));
        }
        let dtype = get(intern!(py, "dtype"))?.to_string();
        let element = Element::of_python(dtype.trim_start_matches("torch.")).ok_or_else(|| {
            argument(format!("the tensor has dtype {dtype}, expected {EXPECTED}"))
        })?;
        let strides: Vec<isize> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
        let address: usize = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
        Ok(Tensor {
            _owner: tensor.clone(),
            data: std::ptr::with_exposed_provenance_mut(address),
            element,
            shape: get(intern!(py, "shape"))?.extract()?,
            strides: strides.iter().map(|s| s * element.size as isize).collect(),
            writable: true,
        })
    }

    fn of_numpy(
        array: &Bound<'py, PyAny>,
        interface: &Bound<'py, PyDict>,
    ) -> PyResult<Tensor<'py>> {
        let py = array.py();
        let item = |name| {
            interface
                .get_item(name)?
                .ok_or_else(|| argument("the array has no description"))
        };
        let typestr: String = item(intern!(py, "typestr"))?.extract()?;
        let is_foreign = typestr.starts_with(if cfg!(target_endian = "little") {
            '>'
        } else {
            '<'
        });
        let dtype = array.getattr(intern!(py, "dtype"))?;
        let name: String = dtype.getattr(intern!(py, "name"))?.extract()?;
        let Some(element) = Element::of_python(&name).filter(|_| !is_foreign) else {
            let order = if is_foreign {
                " in foreign byte order"
            } else {
                ""
            };
            return Err(argument(format!(
                "the array has dtype {dtype}{order}, expected {EXPECTED}"
            )));
        };
        let shape: Vec<usize> = item(intern!(py, "shape"))?.extract()?;
        let (address, read_only): (usize, bool) =
            item(intern!(py, "data"))?.cast::<PyTuple>()?.extract()?;
        let strides = item(intern!(py, "strides"))?;
        let strides = match strides.is_none() {
            true => contiguous_strides(&shape, element.size),
            false => strides.extract()?,
        };
        Ok(Tensor {
            _owner: array.clone(),
            data: std::ptr::with_exposed_provenance_mut(address),
            element,
            shape,
            strides,
            writable: !read_only,
        })
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie in logical order without gaps.
    fn is_contiguous(&self) -> bool {
        let mut expected = self.element.size as isize;
        self.len() == 0
            || self
                .shape
                .iter()
                .zip(&self.strides)
                .rev()
                .all(|(&dim, &stride)| {
                    let fits = dim == 1 || stride == expected;
                    expected *= dim as isize;
                    fits
                })
    }

    /// The bytes of the elements in logical order; copied where they do not lie so.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        if self.len() == 0 {
            return Cow::Borrowed(&[]);
        }
        if self.is_contiguous() {
            // SAFETY: Python vouches for shape and strides; the elements lie without gaps from `data` on, and `_owner`
            // keeps them.
            return Cow::Borrowed(unsafe {
                std::slice::from_raw_parts(self.data, self.len() * self.element.size)
            });
        }
        let mut bytes = Vec::with_capacity(self.len() * self.element.size);
        self.for_each_element(&mut |element| {
            // SAFETY: `for_each_element` gives the addresses of elements.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(element, self.element.size)
            });
        });
        Cow::Owned(bytes)
    }

    /// Calls `f` with the address of each element, in logical order.
    fn for_each_element(&self, f: &mut dyn FnMut(*mut u8)) {
        let mut index = vec![0_usize; self.shape.len()];
        for _ in 0..self.len() {
            let offset = index
                .iter()
                .zip(&self.strides)
                .fold(0, |sum, (&i, &s)| sum + i as isize * s);
            // SAFETY: the index is inside the shape, for which Python vouches.
            f(unsafe { self.data.offset(offset) });
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// The elements where they lie, if they do so in order and aligned.
    fn slice<T: Plain>(&self) -> Option<&[T]> {
        let is_aligned = self.data.addr().is_multiple_of(align_of::<T>());
        if size_of::<T>() != self.element.size || !self.is_contiguous() || !is_aligned {
            return None;
        }
        if self.len() == 0 {
            return Some(&[]);
        }
        // SAFETY: as in `bytes`; the address is aligned, and every bit pattern is a `T`.
        Some(unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), self.len()) })
    }

    /// The same, to be written.
    fn slice_mut<T: Plain>(&mut self, element: Element, name: &str) -> PyResult<&mut [T]> {
        if self.element != element || !self.writable || self.slice::<T>().is_none() {
            let and = if self.writable { "" } else { ", read-only" };
            return Err(argument(format!(
                "{name} is {} with shape {:?} and strides of {:?} bytes{and}, expected a contiguous writable array of {}",
                self.element.name, self.shape, self.strides, element.name
            )));
        }
        if self.len() == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as in `slice`; the array is writable, and nothing else uses its memory meanwhile: outputs are made for
        // the call, and states are checked to lie apart from the inputs.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.cast::<T>(), self.len()) })
    }

    /// The elements as values that can be read a range at a time, whatever their dtype and strides.
    pub(crate) fn source(&self, name: &str) -> PyResult<Source<'_>> {
        let contiguous = match self.element {
            Element::F32 => self.slice().map(Floats::F32),
            Element::BF16 => self.slice().map(Floats::Bf16),
            Element::F16 => self.slice().map(Floats::F16),
            other => return Err(wrong_dtype(name, other, "f32, bf16 or f16")),
        };
        Ok(match contiguous {
            Some(values) => Source::Floats(values),
            None => Source::Strided(Strided {
                data: self.data,
                element: self.element,
                shape: &self.shape,
                strides: &self.strides,
                owner: PhantomData,
            }),
        })
    }

    /// The elements as f32: where they lie if they are f32 in order, else widened exactly into memory of their own.
    pub(crate) fn f32s(&self, name: &str) -> PyResult<Values<'_>> {
        let source = self.source(name)?;
        if let Some(values) = source.in_place() {
            return Ok(Values::InPlace(values));
        }
        let mut values = Buffer::new(self.len());
        source.read(0, &mut values, &pool::operators()?);
        Ok(Values::Own(values))
    }

    /// The elements in order: where they lie if they do so, else widened into memory of their own.
    pub(crate) fn stored(&self, name: &str) -> PyResult<Stored<'_>> {
        Ok(match self.source(name)? {
            Source::Floats(values) => Stored::InPlace(values),
            Source::Strided(_) => Stored::Own(self.f32s(name)?),
        })
    }

    /// The elements as rows of neighbours, `[.., K]`: where they lie if they do so, else widened into memory of their own.
    pub(crate) fn row_source(&self, name: &str) -> PyResult<RowSource<'_>> {
        if let Some((values, strides)) = self.rows() {
            return Ok(RowSource {
                values: Stored::InPlace(values),
                strides,
            });
        }
        let strides = contiguous_strides(&self.shape, 1);
        let strides = strides.iter().map(|s| s.cast_unsigned());
        Ok(RowSource {
            strides: strides.take(self.shape.len().saturating_sub(1)).collect(),
            values: self.stored(name)?,
        })
    }

    /// Rows of neighbouring elements, `[.., K]`: the array from its first element on, and the strides of the other
    /// dimensions in elements. `None` where the last dimension has gaps, a stride is negative or addresses are odd.
    fn rows(&self) -> Option<(Floats<'_>, Vec<usize>)> {
        let size = self.element.size;
        let mut strides = Vec::new();
        for &stride in &self.strides {
            let stride = usize::try_from(stride).ok()?;
            strides.push(stride.is_multiple_of(size).then_some(stride / size)?);
        }
        let last = strides.pop()?;
        if self.len() == 0 || (last != 1 && self.shape.last() != Some(&1)) {
            return None;
        }
        let reach = self.addresses();
        let count = reach.len() / size;
        Some((
            match self.element {
                Element::F32 => Floats::F32(self.span(count)?),
                Element::BF16 => Floats::Bf16(self.span(count)?),
                Element::F16 => Floats::F16(self.span(count)?),
                _ => return None,
            },
            strides,
        ))
    }

    /// The `count` elements from the first address to the last, gaps included; `None` where they are not aligned.
    fn span<T: Plain>(&self, count: usize) -> Option<&[T]> {
        if size_of::<T>() != self.element.size || !self.data.addr().is_multiple_of(align_of::<T>())
        {
            return None;
        }
        // SAFETY: no stride is negative (the caller saw to it), so the elements lie from `data` on; they and what lies
        // between belong to the one array whose memory `_owner` keeps; every bit pattern is a `T`.
        Some(unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), count) })
    }

    /// The elements as integers.
    pub(crate) fn i64s(&self, name: &str) -> PyResult<Cow<'_, [i64]>> {
        if self.element == Element::I64
            && let Some(slice) = self.slice()
        {
            return Ok(Cow::Borrowed(slice));
        }
        let bytes = self.bytes();
        Ok(Cow::Owned(match self.element {
            Element::I64 => {
                let words = bytes.as_chunks::<8>().0.iter();
                words.map(|b| i64::from_le_bytes(*b)).collect()
            }
            Element::I32 => {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|b| i32::from_le_bytes(*b).into()).collect()
            }
            other => return Err(wrong_dtype(name, other, "i64 or i32")),
        }))
    }

    /// The elements as ids.
    pub(crate) fn u32s(&self, name: &str) -> PyResult<Vec<u32>> {
        let id = |&id: &i64| {
            u32::try_from(id)
                .map_err(|_| argument(format!("{name} has the id {id}, expected 0 to 2^32 - 1")))
        };
        self.i64s(name)?.iter().map(id).collect()
    }

    /// The elements to be written, in order: f32, bf16 or f16.
    pub(crate) fn floats_mut(&mut self, name: &str) -> PyResult<FloatsMut<'_>> {
        match self.element {
            Element::BF16 => self.slice_mut(Element::BF16, name).map(FloatsMut::Bf16),
            Element::F16 => self.slice_mut(Element::F16, name).map(FloatsMut::F16),
            _ => self.slice_mut(Element::F32, name).map(FloatsMut::F32),
        }
    }

    /// The elements to be written: f32, in order.
    pub(crate) fn f32s_mut(&mut self, name: &str) -> PyResult<&mut [f32]> {
        self.slice_mut(Element::F32, name)
    }

    /// The elements to be written: f64, in order.
    pub(crate) fn f64s_mut(&mut self, name: &str) -> PyResult<&mut [f64]> {
        self.slice_mut(Element::F64, name)
    }

    /// The elements to be written: i64, in order.
    pub(crate) fn i64s_mut(&mut self, name: &str) -> PyResult<&mut [i64]> {
        self.slice_mut(Element::I64, name)
    }

    /// The codes of an array of bytes, to be written.
    pub(crate) fn bytes_mut(&mut self, name: &str) -> PyResult<&mut [u8]> {
        self.slice_mut(self.element, name)
    }

    /// Swaps the last two dimensions if the elements then lie in order, and tells whether they do.
    pub(crate) fn transpose_last_two(&mut self) -> bool {
        let rank = self.shape.len();
        self.shape.swap(rank - 2, rank - 1);
        self.strides.swap(rank - 2, rank - 1);
        let is_in_order = self.is_contiguous();
        if !is_in_order {
            self.shape.swap(rank - 2, rank - 1);
            self.strides.swap(rank - 2, rank - 1);
        }
        is_in_order
    }

    /// `Ok` where this array, which is written, shares no memory with those.
    pub(crate) fn check_apart(&self, name: &str, others: &[&Tensor<'_>]) -> PyResult<()> {
        let own = self.addresses();
        let is_shared = others
            .iter()
            .map(|other| other.addresses())
            .any(|other| own.start < other.end && other.start < own.end);
        match is_shared {
            true => Err(argument(format!(
                "{name} shares memory with another argument, expected memory of its own"
            ))),
            false => Ok(()),
        }
    }

    /// From the lowest to the highest address of any element.
    fn addresses(&self) -> Range<usize> {
        if self.len() == 0 {
            return 0..0;
        }
        let (mut low, mut high) = (0_isize, self.element.size as isize);
        for (&dim, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = (dim as isize - 1) * stride;
            low += reach.min(0);
            high += reach.max(0);
        }
        let at = |offset| self.data.addr().wrapping_add_signed(offset);
        at(low)..at(high)
    }
}

/// Values to be read a range at a time, in logical order.
pub(crate) enum Source<'a> {
    /// They lie in order.
    Floats(Floats<'a>),
    /// They do not.
    Strided(Strided<'a>),
}

impl<'a> Source<'a> {
    /// The values, if they are f32 in order.
    pub(crate) fn in_place(&self) -> Option<&'a [f32]> {
        match self {
            Source::Floats(Floats::F32(values)) => Some(values),
            _ => None,
        }
    }

    /// Values from `start` on, as many as `out` has, widened exactly.
    pub(crate) fn read(&self, start: usize, out: &mut [f32], cpu: &Cpu) {
        cpu.par_rows(out, 1, GRAIN, |first, out| {
            let start = start + first;
            match self {
                Source::Floats(values) => {
                    let values = values.slice(start..start + out.len());
                    values.read(cpu.level(), out);
                }
                Source::Strided(strided) => strided.read(start, out),
            }
        });
    }
}

/// Values in order.
pub(crate) enum Stored<'a> {
    InPlace(Floats<'a>),
    Own(Values<'a>),
}

impl Stored<'_> {
    pub(crate) fn floats(&self) -> Floats<'_> {
        match self {
            Stored::InPlace(values) => *values,
            Stored::Own(values) => Floats::F32(values),
        }
    }
}

/// Rows of neighbouring values.
pub(crate) struct RowSource<'a> {
    values: Stored<'a>,
    strides: Vec<usize>,
}

impl RowSource<'_> {
    /// The values from the first row on, and the strides of all dimensions but the last.
    pub(crate) fn rows(&self) -> (Floats<'_>, &[usize]) {
        (self.values.floats(), &self.strides)
    }
}

/// Elements with gaps or out of order.
pub(crate) struct Strided<'a> {
    data: *const u8,
    element: Element,
    shape: &'a [usize],
    /// In bytes.
    strides: &'a [isize],
    owner: PhantomData<&'a u8>,
}

// SAFETY: it only reads, as a shared slice would.
unsafe impl Send for Strided<'_> {}
// SAFETY: as above.
unsafe impl Sync for Strided<'_> {}

impl Strided<'_> {
    fn read(&self, start: usize, out: &mut [f32]) {
        match self.element {
            Element::BF16 => {
                self.read_as(start, out, |b| round::bf16_to_f32(u16::from_ne_bytes(b)))
            }
            Element::F16 => self.read_as(start, out, |b| round::f16_to_f32(u16::from_ne_bytes(b))),
            _ => self.read_as(start, out, f32::from_ne_bytes),
        }
    }

    fn read_as<const N: usize>(
        &self,
        start: usize,
        out: &mut [f32],
        widen: impl Fn([u8; N]) -> f32,
    ) {
        let (Some((&len, shape)), Some((&step, strides))) =
            (self.shape.split_last(), self.strides.split_last())
        else {
            // SAFETY: an array without dimensions has one element.
            out[0] = widen(unsafe { self.data.cast::<[u8; N]>().read() });
            return;
        };
        let (mut line, mut at, mut done) = (start / len.max(1), start % len.max(1), 0);
        while done < out.len() {
            let (mut rest, mut offset) = (line, 0);
            for (&dim, &stride) in shape.iter().zip(strides).rev() {
                offset += (rest % dim) as isize * stride;
                rest /= dim;
            }
            let count = (len - at).min(out.len() - done);
            // SAFETY: the index is inside the shape, for which Python vouches.
            let first = unsafe { self.data.offset(offset + at as isize * step) };
            let values = &mut out[done..done + count];
            if step == N as isize {
                // SAFETY: the elements of the line from `at` on lie without gaps; bytes need no alignment.
                let line = unsafe { std::slice::from_raw_parts(first.cast::<[u8; N]>(), count) };
                for (value, &bytes) in values.iter_mut().zip(line) {
                    *value = widen(bytes);
                }
            } else {
                for (i, value) in values.iter_mut().enumerate() {
                    // SAFETY: as for `first`; every bit pattern is a number, and bytes need no alignment.
                    let bytes = unsafe { first.offset(i as isize * step).cast::<[u8; N]>().read() };
                    *value = widen(bytes);
                }
            }
            (line, at, done) = (line + 1, 0, done + count);
        }
    }
}

/// Types of which every bit pattern is a value.
trait Plain {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for i64 {}
impl Plain for u16 {}
impl Plain for u8 {}

fn wrong_dtype(name: &str, got: Element, expected: &str) -> PyErr {
    argument(format!(
        "{name} has dtype {}, expected {expected}",
        got.name
    ))
}

const EXPECTED: &str = "a real, integer or bool dtype";

fn contiguous_strides(shape: &[usize], size: usize) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut next = size as isize;
    for (stride, &dim) in strides.iter_mut().zip(shape).rev() {
        *stride = next;
        next *= dim as isize;
    }
    strides
}
