//! Loops over register tiles.

/// Writes the body out for each `$i` below `$n`, which is at most 8.
///
/// Register tiles are arrays, and an array leaves memory only when every index is a constant. The compiler unrolls
/// loops of its own accord up to a size that these exceed.
macro_rules! unrolled {
    ($i:ident < $n:expr => $body:block) => {
        unrolled!(@ $i $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $n:expr, $body:block, $($k:literal)*) => {
        $(if $k < $n {
            let $i = $k;
            $body
        })*
    };
}
pub(super) use unrolled;
