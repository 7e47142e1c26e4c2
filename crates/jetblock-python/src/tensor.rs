//! Arrays of Python seen from Rust: `torch.Tensor` on the CPU and `numpy.ndarray`, without a copy.
//!
//! An array is its address, element type, shape and strides. What an operator needs as a slice is one where the elements
//! lie in order and have its type; anything else is copied once, in logical order, and widened exactly.
#![allow(
    unsafe_code,
    reason = "memory that Python owns is read and written in place"
)]

use std::borrow::Cow;
use std::ops::Range;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::convert::{self, Buffer, Values};
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

    /// The elements as f32: widened exactly, copied unless they are f32 in order already.
    pub(crate) fn f32s(&self, name: &str) -> PyResult<Values<'_>> {
        if self.element == Element::F32
            && let Some(slice) = self.slice()
        {
            return Ok(Values::InPlace(slice));
        }
        if ![Element::F32, Element::BF16, Element::F16].contains(&self.element) {
            return Err(wrong_dtype(name, self.element, "f32, bf16 or f16"));
        }
        let cpu = pool::operators()?;
        if let Some(words) = self.slice() {
            return Ok(Values::Own(convert::widen(words, self.element, &cpu)));
        }
        let bytes = self.bytes();
        if self.element == Element::F32 {
            let mut values = Buffer::new(self.len());
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            return Ok(Values::Own(values));
        }
        let words = bytes.as_chunks::<2>().0.iter();
        let words: Vec<u16> = words.map(|bytes| u16::from_le_bytes(*bytes)).collect();
        Ok(Values::Own(convert::widen(&words, self.element, &cpu)))
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

    /// The elements to be written: f32, in order.
    pub(crate) fn f32s_mut(&mut self, name: &str) -> PyResult<&mut [f32]> {
        self.slice_mut(Element::F32, name)
    }

    /// The elements to be written: i64, in order.
    pub(crate) fn i64s_mut(&mut self, name: &str) -> PyResult<&mut [i64]> {
        self.slice_mut(Element::I64, name)
    }

    /// The codes of a bf16 or f16 array, to be written.
    pub(crate) fn words_mut(&mut self, name: &str) -> PyResult<&mut [u16]> {
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

/// Types of which every bit pattern is a value.
trait Plain {}
impl Plain for f32 {}
impl Plain for i64 {}
impl Plain for u16 {}

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
