//! Development only: painted inputs, bit comparisons, test cases shared by every op.
