//! Arrays of Python seen from Rust: `torch.Tensor` on the CPU and `numpy.ndarray`, without a copy.
//!
//! An array is its address, element type, shape and strides. What an operator needs as a slice is one where the elements
//! lie in order; anything else is copied once, in logical order.
#![allow(
    unsafe_code,
    reason = "memory that Python owns is read and written in place"
)]

use std::borrow::Cow;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::error::argument;

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

    /// The elements as a slice to be written: f32, in order.
    pub(crate) fn f32s_mut(&mut self, name: &str) -> PyResult<&mut [f32]> {
        let is_aligned = self.data.addr().is_multiple_of(align_of::<f32>());
        if self.element != Element::F32 || !self.is_contiguous() || !self.writable || !is_aligned {
            return Err(argument(format!(
                "{name} has dtype {}, strides {:?}{}, expected a contiguous writable f32 array",
                self.element.name,
                self.strides,
                if self.writable {
                    ""
                } else {
                    " and is read-only"
                }
            )));
        }
        if self.len() == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as in `f32s`; the array is writable, and callers hand in memory that nothing else uses meanwhile.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.cast::<f32>(), self.len()) })
    }
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
