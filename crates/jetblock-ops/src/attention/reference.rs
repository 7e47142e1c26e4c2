//! Attention row by row.

use jetblock_numerics::{canonical, fma, math, max, reduce, round};

use super::{Attention, KvCache};
use crate::linear::OperandKind;

pub(super) fn attention(op: &Attention, out: &mut [f32]) {
    for (segment, cache) in op.segments.iter().zip(op.caches) {
        let head_dim = cache.config().head_dim;
        let group = op.num_attention_heads / cache.config().num_key_value_heads;
        for row in segment.rows.clone() {
            let position = segment.start + row - segment.rows.start;
            let q = op.q.row(row).chunks_exact(head_dim);
            let y = out[row * op.q.width()..][..op.q.width()].chunks_exact_mut(head_dim);
            for (head, (q, y)) in q.zip(y).enumerate() {
                attend(cache, head / group, position, op.split, q, y);
            }
        }
    }
}

fn attend(cache: &KvCache, head: usize, position: usize, split: usize, q: &[f32], y: &mut [f32]) {
    let head_dim = q.len();
    let scale = Attention::scale(cache.config());
    let (mut m, mut l, mut o) = (f32::NEG_INFINITY, 0.0_f32, vec![0.0_f32; head_dim]);
    let mut row = vec![0.0_f32; head_dim];
    for block in (0..=position).step_by(split) {
        let keys = block..(block + split).min(position + 1);
        let mut s = Vec::new();
        for key in keys.clone() {
            cache.read_key(head, key, &mut row);
            s.push(scale * dot(cache.config().kind, q, &row));
        }
        let m_b = reduce::max(&s);
        let p: Vec<f32> = s.iter().map(|s| math::exp(s - m_b)).collect();
        let l_b = reduce::sum(&p);
        let mut o_b = vec![0.0_f32; head_dim];
        for (key, &p) in keys.zip(&p) {
            cache.read_value(head, key, &mut row);
            for d in 0..head_dim {
                o_b[d] = fma(p, row[d], o_b[d]);
            }
        }
        let largest = max(m, m_b);
        let (a, b) = (math::exp(m - largest), math::exp(m_b - largest));
        l = fma(l, a, l_b * b);
        for d in 0..head_dim {
            o[d] = fma(o[d], a, o_b[d] * b);
        }
        m = largest;
    }
    for d in 0..head_dim {
        y[d] = canonical((o[d] / l) * cache.config().v_scale);
    }
}

fn dot(kind: OperandKind, q: &[f32], k: &[f32]) -> f32 {
    let operands = |x: &[f32]| {
        x.iter()
            .map(|&x| round::bf16_operand(x))
            .collect::<Vec<u16>>()
    };
    match kind {
        OperandKind::F32 => reduce::dot_f32(q, k),
        OperandKind::Bf16 => reduce::dot_bf16(&operands(q), &operands(k)),
    }
}
