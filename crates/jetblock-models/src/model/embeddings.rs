//! The embedding table.

use jetblock_ops::OpError;
use jetblock_ops::embedding::{Embedding, Table};
use jetblock_ops::linear::WeightRows;

use jetblock_simd::Cpu;
use jetblock_tensor::DType;

use super::weights::LinearWeights;

/// Where a token's row comes from.
#[derive(Debug)]
pub(crate) enum Embeddings {
    /// A table of its own, as stored.
    Table {
        dtype: DType,
        width: usize,
        bytes: Vec<u8>,
    },
    /// Packed like a linear layer: the output projection that serves both ends, or a quantized table.
    Packed(LinearWeights),
}

impl Embeddings {
    /// Rows of the ids, widened: `out [M, D]`.
    pub(crate) fn gather(&self, ids: &[u32], out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        let table = match self {
            Embeddings::Table {
                dtype,
                width,
                bytes,
            } => {
                let rows = bytes.len() / (width * dtype.size());
                let rows = WeightRows {
                    dtype: *dtype,
                    rows,
                    bytes,
                };
                Table::Rows {
                    rows,
                    hidden_size: *width,
                }
            }
            Embeddings::Packed(table) => Table::Packed(&table.weight),
        };
        Embedding { ids, table }.cpu(out, cpu)
    }

    /// The table as the output projection.
    pub(crate) fn packed(&self) -> &LinearWeights {
        match self {
            Embeddings::Packed(table) => table,
            Embeddings::Table { .. } => unreachable!("a model without lm_head has tied embeddings"),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Embeddings::Table { bytes, .. } => bytes.len(),
            Embeddings::Packed(table) => table.bytes(),
        }
    }
}
