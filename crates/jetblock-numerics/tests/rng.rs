//! Philox against the known answers of its authors, and the layout of counters.

use jetblock_numerics::rng::{
    Draw, domain, mulhi64, philox4x32, tie_hash, uniform_u64, unit_f32, words,
};

/// `kat_vectors` of Random123, philox4x32 with 10 rounds.
#[test]
fn philox_known_answers() {
    let cases = [
        (
            [0; 4],
            [0; 2],
            [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8],
        ),
        (
            [u32::MAX; 4],
            [u32::MAX; 2],
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD],
        ),
        (
            [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
            [0xA409_3822, 0x299F_31D0],
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
        ),
    ];
    for (counter, key, want) in cases {
        assert_eq!(philox4x32(counter, key), want);
    }
}

#[test]
fn a_draw_is_laid_out_as_stated() {
    let seed = 0x299F_31D0_A409_3822;
    let draw = Draw {
        position: 0x85A3_08D3_243F_6A88,
        sample: 0x1319_8A2E,
        domain: 0x0370_7344,
    };
    assert_eq!(
        words(seed, draw),
        [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
    );
    assert_eq!(uniform_u64(seed, draw), 0x94FD_CCEB_D16C_FE09);
    assert_eq!(
        tie_hash(3, 5, 7),
        philox4x32([7, 5, 3, domain::TIE], [0x4A42_4D45, 0])[0]
    );
}

#[test]
fn mulhi64_is_the_high_half() {
    assert_eq!(mulhi64(u64::MAX, u64::MAX), u64::MAX - 1);
    assert_eq!(mulhi64(1 << 63, 10), 5);
    assert_eq!(mulhi64(u64::MAX, 1), 0);
    assert_eq!(
        mulhi64(0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210),
        0x0121_FA00_AD77_D742
    );
}

#[test]
fn unit_f32_stays_below_one() {
    assert_eq!(unit_f32(0), 0.0);
    assert_eq!(unit_f32(u32::MAX), 1.0 - f32::EPSILON / 2.0);
}
