//! Fused multiply-add, in hardware where the target has it and in exact software elsewhere.

/// `a * b + c` rounded once to nearest even, subnormals kept.
///
/// `f32::mul_add` is a slow libm call on targets compiled without the instruction, and some libm versions
/// get subnormals wrong; [`fma_soft`] is used there instead.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(any(target_feature = "fma", target_arch = "aarch64"))]
    {
        #[expect(
            clippy::disallowed_methods,
            reason = "compiles to the instruction on this target"
        )]
        f32::mul_add(a, b, c)
    }
    #[cfg(not(any(target_feature = "fma", target_arch = "aarch64")))]
    {
        fma_soft(a, b, c)
    }
}

/// [`fma`] without the instruction: the product is exact in f64 (24 + 24 bits), the sum is rounded to odd in
/// f64, and rounding that to f32 is then innocuous because 53 >= 2 * 24 + 2 (Boldo & Melquiond 2008).
#[inline]
pub fn fma_soft(a: f32, b: f32, c: f32) -> f32 {
    let p = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let s = p + c;
    // TwoSum (Knuth): p + c = s + err exactly.
    let t = s - p;
    let err = (p - (s - t)) + (c - t);
    let bits = s.to_bits();
    // An inexact sum with an even last bit moves one step toward the exact value: round to odd.
    if err != 0.0 && bits & 1 == 0 && s.is_finite() {
        let toward_larger_magnitude = (err > 0.0) == (s > 0.0);
        let odd = if toward_larger_magnitude {
            bits + 1
        } else {
            bits - 1
        };
        return f64::from_bits(odd) as f32;
    }
    s as f32
}
