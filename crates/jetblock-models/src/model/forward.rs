//! One step of the model over a ragged batch (NUMERICS.md section 10).

use std::ops::Range;

use jetblock_ops::attention::{self, Attention};
use jetblock_ops::causal_conv1d::{CausalConv1d, Taps};
use jetblock_ops::linear::{Epilogue, Prepared};
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::rope::Rope;
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_ops::{Columns, OpError, Segment};
use jetblock_simd::{Cpu, fp_env};

use super::weights::{AttentionWeights, LinearWeights, MambaWeights, Mixer};
use super::{Contract, Kernels, Model};
use crate::state::{LayerState, SequenceError, SequenceState};
use crate::workspace::{Workspace, sized};
use crate::{ModelError, mlp, moe};

/// Rows computed together at most. More are computed in turn, which changes no bit and bounds scratch memory.
const STEP_ROWS: usize = 256;

/// Which positions of a piece give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None of them.
    None,
    /// The last one.
    Last,
    /// Every one.
    All,
}

/// Some next tokens of one sequence.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The sequence; it advances by `ids.len()` tokens.
    pub state: &'a mut SequenceState,
    /// Token ids; at least one.
    pub ids: &'a [u32],
    /// The logits wanted.
    pub logits: LogitRows,
}

/// The hidden state of some rows after a layer: after its residual addition.
#[derive(Clone, Copy, Debug)]
pub struct LayerRows<'a> {
    /// Index of the piece in the call.
    pub piece: usize,
    /// Index of the layer; layers come in order.
    pub layer: usize,
    /// Position of the first row in its sequence. A long piece is shown in several parts, in order.
    pub start: usize,
    /// `[rows, D]`
    pub hidden: &'a [f32],
}

/// Is shown the rows of every piece after every layer.
pub type Observe<'a> = dyn FnMut(LayerRows<'_>) + Send + 'a;

/// Logits of a piece, `[rows wanted, V]`, or why its sequence cannot continue.
pub type PieceResult = Result<Vec<f32>, SequenceError>;

impl Model {
    /// Feeds each sequence its piece: prompts in any pieces and single tokens, in any mixture.
    ///
    /// A sequence's result depends on its own tokens only. An error of one sequence (for example a router score that is
    /// NaN) is its own result; it cannot be fed again, and the others are not affected. The outer error is for
    /// arguments that are wrong before anything is computed; no state has changed then.
    pub fn forward(
        &self,
        pieces: &mut [Piece<'_>],
        cpu: &Cpu,
        workspace: &mut Workspace,
    ) -> Result<Vec<PieceResult>, ModelError> {
        self.forward_with(&Contract, pieces, cpu, workspace, None)
    }

    /// [`Model::forward`] with other kernels than the contract's (for the control and for tests), or with an ear in it.
    pub fn forward_with<K: Kernels>(
        &self,
        kernels: &K,
        pieces: &mut [Piece<'_>],
        cpu: &Cpu,
        workspace: &mut Workspace,
        mut observe: Option<&mut Observe<'_>>,
    ) -> Result<Vec<PieceResult>, ModelError> {
        let _env = fp_env::Guard::new();
        for piece in pieces.iter() {
            self.check_piece(piece)?;
        }
        let mut results: Vec<PieceResult> = pieces.iter().map(|_| Ok(Vec::new())).collect();
        let mut fed = vec![0; pieces.len()];
        loop {
            let shares = share_rows(pieces, &fed, &results);
            let mut step = Step::default();
            for (index, (piece, rows)) in pieces.iter_mut().zip(&shares).enumerate() {
                if rows.is_empty() {
                    continue;
                }
                let last = rows.end == piece.ids.len();
                let logits = match piece.logits {
                    LogitRows::Last if !last => LogitRows::None,
                    other => other,
                };
                step.push(
                    index,
                    Piece {
                        state: &mut *piece.state,
                        ids: &piece.ids[rows.clone()],
                        logits,
                    },
                );
                fed[index] = rows.end;
            }
            if step.pieces.is_empty() {
                return Ok(results);
            }
            let indices = step.indices.clone();
            let run = Run {
                model: self,
                kernels,
                cpu,
                workspace,
                step,
                observe: observe.as_deref_mut(),
            };
            let outcome = cpu.install(|| run.run())?;
            for (index, outcome) in indices.into_iter().zip(outcome) {
                match outcome {
                    Ok(logits) => results[index]
                        .as_mut()
                        .expect("a failed piece gets no rows")
                        .extend(logits),
                    Err(e) => results[index] = Err(e),
                }
            }
        }
    }

    fn check_piece(&self, piece: &Piece<'_>) -> Result<(), ModelError> {
        piece.state.check_usable(&self.fingerprint)?;
        if piece.ids.is_empty() {
            return Err(ModelError::EmptyPiece);
        }
        let vocab_size = self.config.vocab_size;
        match piece.ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(index) => Err(ModelError::TokenOutOfRange {
                index,
                id: piece.ids[index],
                vocab_size,
            }),
            None => Ok(()),
        }
    }
}

/// The rows of each piece in the next step.
fn share_rows(pieces: &[Piece<'_>], fed: &[usize], results: &[PieceResult]) -> Vec<Range<usize>> {
    let mut left = STEP_ROWS;
    let share = |((piece, &fed), result): ((&Piece<'_>, &usize), &PieceResult)| {
        let rows = if result.is_err() {
            0
        } else {
            (piece.ids.len() - fed).min(left)
        };
        left -= rows;
        fed..fed + rows
    };
    pieces.iter().zip(fed).zip(results).map(share).collect()
}

/// The pieces of one step and where their rows are.
#[derive(Default)]
struct Step<'a> {
    pieces: Vec<Piece<'a>>,
    /// Position of each piece in the caller's list.
    indices: Vec<usize>,
    segments: Vec<Segment>,
    rows: usize,
}

impl<'a> Step<'a> {
    fn push(&mut self, index: usize, piece: Piece<'a>) {
        let rows = self.rows..self.rows + piece.ids.len();
        self.rows = rows.end;
        self.segments.push(Segment {
            rows,
            start: piece.state.tokens,
        });
        self.indices.push(index);
        self.pieces.push(piece);
    }
}

/// A step being computed.
struct Run<'a, 'b, 'o, K> {
    model: &'a Model,
    kernels: &'a K,
    cpu: &'a Cpu,
    workspace: &'a mut Workspace,
    step: Step<'b>,
    observe: Option<&'a mut Observe<'o>>,
}

impl<K: Kernels> Run<'_, '_, '_, K> {
    fn run(mut self) -> Result<Vec<PieceResult>, ModelError> {
        let model = self.model;
        let width = model.config.hidden_size;
        let len = self.step.rows * width;
        // Scratch that outlives a layer is taken out of the workspace, so that layers can borrow the rest.
        let mut h = std::mem::take(&mut self.workspace.h);
        let mut u = std::mem::take(&mut self.workspace.u);
        let mut out = std::mem::take(&mut self.workspace.out);
        let (hidden, normed, mixed) =
            (sized(&mut h, len), sized(&mut u, len), sized(&mut out, len));
        let computed = self
            .layers(hidden, normed, mixed)
            .and_then(|()| self.logits(hidden, normed));
        (self.workspace.h, self.workspace.u, self.workspace.out) = (h, u, out);
        computed
    }

    fn layers(&mut self, h: &mut [f32], u: &mut [f32], out: &mut [f32]) -> Result<(), ModelError> {
        let model = self.model;
        let ids: Vec<u32> = self
            .step
            .pieces
            .iter()
            .flat_map(|piece| piece.ids)
            .copied()
            .collect();
        model.embeddings.gather(&ids, h, self.cpu)?;
        if !model.inverse_frequencies.is_empty() {
            let table = &mut self.workspace.attention.rope;
            table.fill(&model.inverse_frequencies, &self.step.segments);
        }
        for (index, layer) in model.layers.iter().enumerate() {
            self.norm(h, &layer.norm, u)?;
            match &layer.mixer {
                Mixer::Mamba(weights) => self.mamba(index, weights, u, out)?,
                Mixer::Attention(weights) => self.attention(index, weights, u, out)?,
                Mixer::Mlp(weights) => {
                    mlp::forward(self.kernels, self.cpu, self.workspace, u, weights, out)?;
                }
                Mixer::Moe(weights) => moe::forward(self.moe_input(index, u), weights, out)?,
            }
            add(self.cpu, h, out, model.config.hidden_size);
            if let Some(observe) = &mut self.observe {
                let width = model.config.hidden_size;
                for (&piece, segment) in self.step.indices.iter().zip(&self.step.segments) {
                    observe(LayerRows {
                        piece,
                        layer: index,
                        start: segment.start,
                        hidden: &h[segment.rows.start * width..segment.rows.end * width],
                    });
                }
            }
        }
        for piece in &mut self.step.pieces {
            piece.state.tokens += piece.ids.len();
        }
        Ok(())
    }

    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) -> Result<(), OpError> {
        let args = RmsNorm {
            x,
            weight,
            eps: self.model.config.norm_eps,
        };
        self.kernels.rms_norm(self.cpu, &args, out)
    }

    fn linear(
        &mut self,
        x: &[f32],
        weights: &LinearWeights,
        epilogue: Epilogue,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        linear(
            self.kernels,
            self.cpu,
            &mut self.workspace.prepared,
            x,
            weights,
            epilogue,
            out,
        )
    }

    fn mamba(
        &mut self,
        index: usize,
        weights: &MambaWeights,
        u: &[f32],
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let (config, rows) = (&self.model.config, self.step.rows);
        let (inner, conv_dim, heads) = (
            config.mamba_inner(),
            config.conv_dim(),
            config.mamba_num_heads,
        );
        let width = config.in_proj_rows();
        let mut scratch = std::mem::take(&mut self.workspace.mamba);
        let projected = sized(&mut scratch.projected, rows * width);
        self.linear(u, &weights.in_proj, Epilogue::None, projected)?;
        let column = |range: Range<usize>| Columns {
            data: projected,
            row_len: width,
            columns: range,
        };

        let convolved = sized(&mut scratch.convolved, rows * conv_dim);
        let y = sized(&mut scratch.y, rows * inner);
        let (mut conv_states, mut ssm_states) = (Vec::new(), Vec::new());
        for piece in &mut self.step.pieces {
            match &mut piece.state.layers[index] {
                LayerState::Mamba { conv, ssm, .. } => {
                    conv_states.push(conv.as_mut_slice());
                    ssm_states.push(ssm.as_mut_slice());
                }
                other => unreachable!("layer {index} is a Mamba mixer, its state is {other:?}"),
            }
        }
        let conv = CausalConv1d {
            x: column(inner..inner + conv_dim),
            weight: Taps::Fixed(&weights.conv_weight),
            bias: weights.conv_bias.as_deref(),
            segments: &self.step.segments,
        };
        conv.cpu(&mut conv_states, convolved, self.cpu)?;

        let state = config.n_groups * config.ssm_state_size;
        let part = |range: Range<usize>| Columns {
            data: convolved,
            row_len: conv_dim,
            columns: range,
        };
        let scan = SelectiveScan {
            x: part(0..inner),
            b: part(inner..inner + state),
            c: part(inner + state..conv_dim),
            dt_raw: column(inner + conv_dim..inner + conv_dim + heads),
            dt_bias: &weights.dt_bias,
            a: &weights.a,
            d: &weights.d,
            groups: config.n_groups,
            dt_limit: config.time_step_limit,
            segments: &self.step.segments,
        };
        self.kernels
            .selective_scan(self.cpu, &scan, &mut ssm_states, y)?;

        let gated = RmsNormGated {
            y,
            z: column(0..inner),
            weight: &weights.norm,
            groups: config.n_groups,
            eps: config.norm_eps,
        };
        let normed = sized(&mut scratch.normed, rows * inner);
        self.kernels.rms_norm_gated(self.cpu, &gated, normed)?;
        let normed = &scratch.normed[..rows * inner];
        let done = self.linear(normed, &weights.out_proj, Epilogue::None, out);
        self.workspace.mamba = scratch;
        Ok(done?)
    }

    fn attention(
        &mut self,
        index: usize,
        weights: &AttentionWeights,
        u: &[f32],
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let (config, rows) = (&self.model.config, self.step.rows);
        let (q_width, kv_width) = (config.q_width(), config.kv_width());
        let mut scratch = std::mem::take(&mut self.workspace.attention);
        let q = sized(&mut scratch.q, rows * q_width);
        let k = sized(&mut scratch.k, rows * kv_width);
        let v = sized(&mut scratch.v, rows * kv_width);
        let prepared = &mut self.workspace.prepared;
        prepared.prepare_into(self.cpu, u, config.hidden_size)?;
        let jobs = vec![
            weights.q_proj.job(prepared, Epilogue::None, q),
            weights.k_proj.job(prepared, Epilogue::None, k),
            weights.v_proj.job(prepared, Epilogue::None, v),
        ];
        self.kernels.grouped_linear(self.cpu, jobs)?;
        if let Some((q_norm, k_norm)) = &weights.qk_norm {
            for (x, weight) in [(&mut *q, q_norm), (&mut *k, k_norm)] {
                let normed = sized(&mut scratch.normed, x.len());
                self.norm(x, weight, normed)?;
                x.copy_from_slice(normed);
            }
        }
        if config.rope.is_some() {
            let rope = Rope {
                table: &scratch.rope,
                head_dim: config.head_dim,
            };
            rope.cpu(q, self.cpu)?;
            rope.cpu(k, self.cpu)?;
        }
        let whole = |data, row_len| Columns {
            data,
            row_len,
            columns: 0..row_len,
        };
        for (piece, segment) in self.step.pieces.iter_mut().zip(&self.step.segments) {
            let cache = kv_cache(&mut piece.state.layers[index]);
            cache.append(whole(k, kv_width), whole(v, kv_width), segment.rows.clone())?;
        }
        let caches: Vec<&attention::KvCache> = self
            .step
            .pieces
            .iter_mut()
            .map(|piece| &*kv_cache(&mut piece.state.layers[index]))
            .collect();
        let args = Attention {
            q: whole(q, q_width),
            caches: &caches,
            segments: &self.step.segments,
            num_attention_heads: config.num_attention_heads,
            split: self.model.options.split,
        };
        let attended = sized(&mut scratch.attended, rows * q_width);
        self.kernels.attention(self.cpu, &args, attended)?;
        let attended = &scratch.attended[..rows * q_width];
        let done = self.linear(attended, &weights.o_proj, Epilogue::None, out);
        self.workspace.attention = scratch;
        Ok(done?)
    }

    fn moe_input<'c>(&'c mut self, layer: usize, u: &'c [f32]) -> moe::Input<'c, K> {
        let failed = self
            .step
            .pieces
            .iter_mut()
            .map(|piece| &mut piece.state.failed)
            .collect();
        moe::Input {
            kernels: self.kernels,
            cpu: self.cpu,
            hash_ties: self.model.options.hash_ties,
            workspace: &mut *self.workspace,
            segments: &self.step.segments,
            failed,
            layer,
            u,
        }
    }

    fn logits(&mut self, h: &[f32], gathered: &mut [f32]) -> Result<Vec<PieceResult>, ModelError> {
        let (width, vocab_size) = (self.model.config.hidden_size, self.model.config.vocab_size);
        let wanted: Vec<Range<usize>> = self
            .step
            .pieces
            .iter()
            .zip(&self.step.segments)
            .map(wanted_rows)
            .collect();
        let mut count = 0;
        for row in wanted.iter().cloned().flatten() {
            gathered[count * width..][..width].copy_from_slice(&h[row * width..][..width]);
            count += 1;
        }
        let mut logits = vec![0.0; count * vocab_size];
        if count > 0 {
            let mut normed = vec![0.0; count * width];
            self.norm(&gathered[..count * width], &self.model.norm_f, &mut normed)?;
            let head = self
                .model
                .lm_head
                .as_ref()
                .unwrap_or_else(|| self.model.embeddings.packed());
            self.linear(&normed, head, Epilogue::None, &mut logits)?;
        }
        let mut at = 0;
        let take = |(piece, rows): (&Piece<'_>, Range<usize>)| {
            let own = &logits[at..at + rows.len() * vocab_size];
            at += own.len();
            match &piece.state.failed {
                Some(e) => Err(e.clone()),
                None => Ok(own.to_vec()),
            }
        };
        if self.step.pieces.len() == 1 && self.step.pieces[0].state.failed.is_none() {
            return Ok(vec![Ok(logits)]);
        }
        Ok(self.step.pieces.iter().zip(wanted).map(take).collect())
    }
}

fn wanted_rows((piece, segment): (&Piece<'_>, &Segment)) -> Range<usize> {
    match piece.logits {
        LogitRows::None => segment.rows.end..segment.rows.end,
        LogitRows::Last => segment.rows.end - 1..segment.rows.end,
        LogitRows::All => segment.rows.clone(),
    }
}

fn kv_cache(state: &mut LayerState) -> &mut attention::KvCache {
    match state {
        LayerState::Attention(cache) => cache,
        other => unreachable!("the layer is an attention mixer, its state is {other:?}"),
    }
}

/// `out = x · weightᵀ` with bias and epilogue, `x` brought to the weight's operand kind first.
pub(crate) fn linear<K: Kernels>(
    kernels: &K,
    cpu: &Cpu,
    prepared: &mut Prepared,
    x: &[f32],
    weights: &LinearWeights,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), OpError> {
    prepared.prepare_into(cpu, x, weights.weight.k())?;
    kernels.grouped_linear(cpu, vec![weights.job(prepared, epilogue, out)])
}

/// `h += out`: the residual, and the shared expert's part.
pub(crate) fn add(cpu: &Cpu, h: &mut [f32], out: &[f32], width: usize) {
    const GRAIN_ROWS: usize = 16;
    cpu.par_rows(h, width, GRAIN_ROWS, |first, rows| {
        for (h, out) in rows.iter_mut().zip(&out[first * width..]) {
            *h += out;
        }
    });
}
