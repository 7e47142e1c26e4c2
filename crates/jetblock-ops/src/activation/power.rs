//! Powers to one exponent: `y[i] = x[i]^e`.
//!
//! The exponents 2, 3, -1, -2, 0.5 and -0.5 are products, quotients and square roots, as PyTorch has them; others are
//! `jetblock_numerics::math::pow`. NUMERICS.md section 13.6.

use jetblock_numerics::{Lanes, canonical, math};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::Activation;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 1024;

/// The definition.
pub fn pow_reference(x: &[f32], exponent: f32, out: &mut [f32]) -> Result<(), OpError> {
    Activation::check(x, out)?;
    for (&x, y) in x.iter().zip(out) {
        *y = canonical(usual(x, exponent).unwrap_or_else(|| math::pow(x, exponent)));
    }
    Ok(())
}

/// The same bits, faster where the exponent is a usual one.
pub fn pow(x: &[f32], exponent: f32, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
    Activation::check(x, out)?;
    let _guard = fp_env::Guard::new();
    cpu.par_rows(out, 1, GRAIN, |first, out| {
        let x = &x[first..first + out.len()];
        if usual(1.0, exponent).is_some() {
            cpu.run(Usual { x, exponent, out });
        } else {
            for (&x, y) in x.iter().zip(out) {
                *y = math::pow(x, exponent);
            }
        }
    });
    Ok(())
}

#[inline(always)]
fn usual<V: Lanes>(x: V, exponent: f32) -> Option<V> {
    let one = V::splat(1.0);
    let y = if exponent == 2.0 {
        x.mul(x)
    } else if exponent == 3.0 {
        x.mul(x).mul(x)
    } else if exponent == -1.0 {
        one.div(x)
    } else if exponent == -2.0 {
        one.div(x.mul(x))
    } else if exponent == 0.5 {
        x.sqrt()
    } else if exponent == -0.5 {
        one.div(x.sqrt())
    } else {
        return None;
    };
    Some(y)
}

struct Usual<'a> {
    x: &'a [f32],
    exponent: f32,
    out: &'a mut [f32],
}

impl Kernel for Usual<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (x, out) in self.x.chunks(S::LANES).zip(self.out.chunks_mut(S::LANES)) {
            if let Some(y) = usual(load_part(simd, x), self.exponent) {
                store_part(simd, canonical(y), out);
            }
        }
    }
}
