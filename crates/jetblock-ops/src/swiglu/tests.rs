use jetblock_numerics::math;
use jetblock_testing::*;

use super::*;

fn reference(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = Guarded::new(gate.len());
    y.copy_from_slice(gate);
    SwiGlu { up }.reference(&mut y).expect("equal lengths");
    y.assert_intact();
    y.to_vec()
}

#[test]
fn cpu_equals_reference() {
    let of = |len| (painted_special(1, len, 9), painted_special(2, len, 11));
    let inputs = AWKWARD_LENGTHS.into_iter().chain([0, 40_000]).map(of);
    for (gate, up) in inputs.chain([(painted_raw(3, 30_001), painted_wide(4, 30_001))]) {
        let want = reference(&gate, &up);
        for_every_cpu(|cpu| {
            let mut y = Guarded::new(gate.len());
            y.copy_from_slice(&gate);
            SwiGlu { up: &up }.cpu(&mut y, cpu).expect("equal lengths");
            assert_bits_equal(format!("n = {}", gate.len()), &y, &want);
            y.assert_intact();
        });
    }
}

#[test]
fn other_formulas_of_the_same_function_are_noticed() {
    let (gate, up) = (painted(1, 1000), painted(2, 1000));
    let want = reference(&gate, &up);
    let by_sigmoid: Vec<f32> = gate
        .iter()
        .zip(&up)
        .map(|(g, u)| (g * u) * math::sigmoid(*g))
        .collect();
    assert_bits_differ("(gate * up) * sigmoid(gate)", &by_sigmoid, &want);
    assert_bits_differ("the sides exchanged", &reference(&up, &gate), &want);
}

#[test]
fn golden_bits_v1() {
    let y = reference(&painted(1, 4), &painted(2, 4));
    assert_bits_equal("golden", &y, &GOLDEN.map(f32::from_bits));
}

/// From the second implementation.
const GOLDEN: [u32; 4] = [0x3F3393D1, 0xBE207B6E, 0x3EC4392C, 0xBDF0F689];

#[test]
fn lengths_must_agree() {
    let error = SwiGlu { up: &[0.0; 3] }
        .reference(&mut [0.0; 2])
        .expect_err("short");
    assert_eq!(
        error.to_string(),
        "swiglu: gate [n] has 2 elements, expected 3"
    );
}
