//! A tensor in a mapped file.

use jetblock_numerics::round::{bf16_to_f32, f16_to_f32};
use jetblock_tensor::DType;

use super::StoredDType;

/// A tensor of any type as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct StoredView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Element type.
    pub dtype: StoredDType,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// The elements in the file's order.
    pub bytes: &'a [u8],
    /// Width of a head, where the rows of each head are permuted in the file.
    pub pairs: Option<usize>,
}

impl<'a> StoredView<'a> {
    /// The bytes of row `index` of the model.
    ///
    /// llama.cpp's converter puts the rows i and i + hd/2 of each head of q and k side by side, for its kernel that turns
    /// neighbours; here they are found where they are.
    ///
    /// # Panics
    /// If the row is outside the tensor.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let row_bytes = self.bytes.len() / self.rows();
        let index = match self.pairs {
            None => index,
            Some(head_dim) => {
                let (head, i, half) = (index / head_dim, index % head_dim, head_dim / 2);
                head * head_dim + 2 * (i % half) + i / half
            }
        };
        &self.bytes[index * row_bytes..][..row_bytes]
    }

    /// Rows; a scalar is one row of one element.
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The elements of a plain type widened to f32, exactly, in the model's order.
    ///
    /// # Panics
    /// If the type is not plain.
    pub fn to_f32(&self) -> Vec<f32> {
        let dtype = self.dtype.dtype().expect("a plain type");
        let row_elements = self.bytes.len() / self.rows() / dtype.size();
        let mut out = vec![0.0; self.rows() * row_elements];
        for (index, out) in out.chunks_exact_mut(row_elements).enumerate() {
            widen_into(dtype, self.row(index), out);
        }
        out
    }
}

/// A stored tensor; its bytes are little-endian, row-major and at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// The elements.
    pub bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Rows `first..first + count` of a tensor with at least one dimension.
    ///
    /// # Panics
    /// If the rows are outside the tensor.
    pub fn rows(&self, first: usize, count: usize) -> &'a [u8] {
        let row = self.shape[1..].iter().product::<usize>() * self.dtype.size();
        &self.bytes[first * row..(first + count) * row]
    }

    /// The elements widened to f32, exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        widen_into(self.dtype, self.bytes, &mut out);
        out
    }

    /// The bit patterns of a BF16 tensor.
    ///
    /// # Panics
    /// If the tensor is of another type.
    pub fn to_bf16_bits(&self) -> Vec<u16> {
        assert_eq!(self.dtype, DType::BF16, "bf16 bits of {}", self.name);
        self.bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u16::from_le_bytes(*b))
            .collect()
    }
}

/// Widens stored elements to f32, exactly.
///
/// # Panics
/// If `out` has another number of elements.
pub fn widen_into(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        bytes.len(),
        out.len() * dtype.size(),
        "bytes of {} {dtype} elements",
        out.len()
    );
    let pairs = bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b));
    match dtype {
        DType::F32 => {
            let quads = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            out.iter_mut().zip(quads).for_each(|(y, x)| *y = x);
        }
        DType::BF16 => out
            .iter_mut()
            .zip(pairs)
            .for_each(|(y, x)| *y = bf16_to_f32(x)),
        DType::F16 => out
            .iter_mut()
            .zip(pairs)
            .for_each(|(y, x)| *y = f16_to_f32(x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_one_row() {
        let bytes = 1.5_f32.to_le_bytes();
        let scale = StoredView {
            name: "k_scale",
            dtype: StoredDType::F32,
            shape: &[],
            bytes: &bytes,
            pairs: None,
        };
        assert_eq!(scale.to_f32(), [1.5]);
        assert_eq!(scale.row(0), bytes);
    }
}
