//! Scratch memory that is reused from step to step. Nothing in it is read before it is written.

use jetblock_ops::linear::{OperandKind, Prepared};
use jetblock_ops::moe::{ExpertWorkspace, Routes};
use jetblock_ops::rope::RopeTable;

/// Scratch of a model's steps. One serves any number of models and sequences, one step at a time.
#[derive(Debug)]
pub struct Workspace {
    /// Residual stream `[M, D]`.
    pub(crate) h: Vec<f32>,
    /// Normalised rows `[M, D]`.
    pub(crate) u: Vec<f32>,
    /// Mixer outputs `[M, D]`.
    pub(crate) out: Vec<f32>,
    /// Rows as operands of the model's kind.
    pub(crate) prepared: Prepared,
    pub(crate) mamba: MambaScratch,
    pub(crate) attention: AttentionScratch,
    /// `[M, I]`.
    pub(crate) intermediate: Vec<f32>,
    /// `[M, I]`.
    pub(crate) gate: Vec<f32>,
    pub(crate) moe: MoeScratch,
}

/// Rows inside a Mamba mixer.
#[derive(Debug, Default)]
pub(crate) struct MambaScratch {
    pub(crate) projected: Vec<f32>,
    pub(crate) convolved: Vec<f32>,
    pub(crate) y: Vec<f32>,
    pub(crate) normed: Vec<f32>,
}

/// Rows inside an attention mixer.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// q or k while it is normalised.
    pub(crate) normed: Vec<f32>,
    /// Of the step's rows; every attention layer reads it.
    pub(crate) rope: RopeTable,
    pub(crate) attended: Vec<f32>,
}

/// Rows inside an MoE mixer.
#[derive(Debug)]
pub(crate) struct MoeScratch {
    /// Rows as f32 operands, for the router.
    pub(crate) router_input: Prepared,
    pub(crate) logits: Vec<f32>,
    pub(crate) routes: Routes,
    pub(crate) latent: Vec<f32>,
    /// Rows as operands of the experts' kind.
    pub(crate) expert_input: Prepared,
    pub(crate) experts: ExpertWorkspace,
    pub(crate) combined: Vec<f32>,
    pub(crate) shared: Vec<f32>,
}

impl Workspace {
    /// Empty scratch for models of an operand kind.
    pub fn new(kind: OperandKind) -> Workspace {
        Workspace {
            h: Vec::new(),
            u: Vec::new(),
            out: Vec::new(),
            prepared: Prepared::new(kind),
            mamba: MambaScratch::default(),
            attention: AttentionScratch::default(),
            intermediate: Vec::new(),
            gate: Vec::new(),
            moe: MoeScratch {
                router_input: Prepared::new(OperandKind::F32),
                logits: Vec::new(),
                routes: Routes::default(),
                latent: Vec::new(),
                expert_input: Prepared::new(kind),
                experts: ExpertWorkspace::default(),
                combined: Vec::new(),
                shared: Vec::new(),
            },
        }
    }
}

/// The first `len` elements of a buffer that grows as needed.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
