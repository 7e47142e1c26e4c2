use jetblock_tensor::DType;
use jetblock_testing::*;

use super::*;
use crate::linear::OperandKind;

fn bytes(dtype: DType, count: usize) -> Vec<u8> {
    let raw = painted_raw(3, count);
    let code = |x: &f32| x.to_bits().to_le_bytes().into_iter().take(dtype.size());
    raw.iter().flat_map(code).collect()
}

#[test]
fn cpu_equals_reference() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for hidden_size in AWKWARD_LENGTHS {
            let vocab = 11;
            // One byte in front: a mapped file promises no alignment.
            let bytes = [vec![0], bytes(dtype, vocab * hidden_size)].concat();
            let rows = WeightRows {
                dtype,
                rows: vocab,
                bytes: &bytes[1..],
            };
            let ids: Vec<u32> = (0..40).map(|i| i * 7 % 11).collect();
            let op = Embedding {
                ids: &ids,
                table: Table::Rows { rows, hidden_size },
            };
            let mut want = Guarded::new(ids.len() * hidden_size);
            op.reference(&mut want).expect("valid arguments");
            want.assert_intact();
            for_every_cpu(|cpu| {
                let mut out = Guarded::new(ids.len() * hidden_size);
                op.cpu(&mut out, cpu).expect("valid arguments");
                assert_bits_equal(format!("{dtype}, D = {hidden_size}"), &out, &want);
            });
            if hidden_size > 8 {
                assert_bits_differ(
                    "another row",
                    &want[..hidden_size],
                    &want[hidden_size..2 * hidden_size],
                );
            }
        }
    }
}

#[test]
fn a_tied_matrix_gives_the_rows_of_the_table() {
    let (vocab, hidden_size) = (70, 33);
    let table = painted(4, vocab * hidden_size);
    let bf16: Vec<u8> = table
        .iter()
        .flat_map(|x| jetblock_numerics::round::f32_to_bf16(*x).to_le_bytes())
        .collect();
    let rows = WeightRows {
        dtype: DType::BF16,
        rows: vocab,
        bytes: &bf16,
    };
    let ids: Vec<u32> = (0..70).rev().collect();
    let embed = |table: Table| {
        let mut out = vec![0.0; 70 * hidden_size];
        Embedding { ids: &ids, table }
            .cpu(&mut out, &cpus()[1])
            .expect("valid arguments");
        out
    };
    let want = embed(Table::Rows { rows, hidden_size });
    for kind in [OperandKind::Bf16, OperandKind::F32] {
        let packed = PackedMatrix::pack(kind, &[rows], hidden_size, &mut |_, _| {}).expect("valid");
        assert_bits_equal("tied", &embed(Table::Packed(&packed)), &want);
    }
}

#[test]
fn invalid_arguments_are_named() {
    let bytes = [0; 24];
    let rows = WeightRows {
        dtype: DType::F32,
        rows: 3,
        bytes: &bytes,
    };
    let op = Embedding {
        ids: &[0, 3],
        table: Table::Rows {
            rows,
            hidden_size: 2,
        },
    };
    let message = op.check(&[0.0; 4]).expect_err("no such row").to_string();
    assert_eq!(
        message,
        "embedding: token id is 3, expected below the vocabulary size 3"
    );
    let op = Embedding {
        ids: &[0],
        table: Table::Rows {
            rows,
            hidden_size: 3,
        },
    };
    let message = op.check(&[0.0; 3]).expect_err("too few bytes").to_string();
    assert_eq!(
        message,
        "embedding: bytes of table [V, D] has 24 elements, expected 36"
    );
}
