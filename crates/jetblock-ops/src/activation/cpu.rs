//! The activations with lanes over elements, threads over runs of elements.

use std::marker::PhantomData;

use jetblock_numerics::{Lanes, math, round};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::Activation;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 8 * 1024;

impl Activation {
    /// The same bits as [`Activation::reference`], faster.
    pub fn cpu(self, x: &[f32], out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        Activation::check(x, out)?;
        let _guard = fp_env::Guard::new();
        cpu.par_rows(out, 1, GRAIN, |first, out| {
            let len = out.len();
            let x = &x[first..first + len];
            self.apply(cpu, Elements::Apart { x, out });
        });
        Ok(())
    }

    /// Of bf16 codes: widened, the function, rounded. In one loop, because reading, computing and writing one after another
    /// would each wait for memory.
    pub fn cpu_bf16(self, x: &[u16], out: &mut [u16], cpu: &Cpu) -> Result<(), OpError> {
        Activation::check(x, out)?;
        let _guard = fp_env::Guard::new();
        cpu.par_rows(out, 1, GRAIN, |first, out| {
            let len = out.len();
            let x = &x[first..first + len];
            self.apply(cpu, Elements::Bf16 { x, out });
        });
        Ok(())
    }

    /// [`Activation::cpu`] with the input overwritten by the result.
    pub fn cpu_in_place(self, x: &mut [f32], cpu: &Cpu) {
        let _guard = fp_env::Guard::new();
        cpu.par_rows(x, 1, GRAIN, |_, x| self.apply(cpu, Elements::InPlace(x)));
    }

    /// One run of elements.
    fn apply(self, cpu: &Cpu, elements: Elements<'_>) {
        match self {
            Activation::Relu2 => cpu.run(Map::<Relu2>::of(elements)),
            Activation::Silu => cpu.run(Map::<Silu>::of(elements)),
            Activation::Sigmoid => cpu.run(Map::<Sigmoid>::of(elements)),
            Activation::Softplus => cpu.run(Map::<Softplus>::of(elements)),
            Activation::GeluTanh => cpu.run(Map::<GeluTanh>::of(elements)),
            Activation::GeluErf => cpu.run(Map::<GeluErf>::of(elements)),
            Activation::Exp => cpu.run(Map::<Exp>::of(elements)),
            Activation::Exp2 => cpu.run(Map::<Exp2>::of(elements)),
            Activation::Log => cpu.run(Map::<Log>::of(elements)),
            Activation::Log1p => cpu.run(Map::<Log1p>::of(elements)),
            Activation::Tanh => cpu.run(Map::<Tanh>::of(elements)),
            Activation::Erf => cpu.run(Map::<Erf>::of(elements)),
            Activation::Rsqrt => cpu.run(Map::<Rsqrt>::of(elements)),
            Activation::Sin | Activation::Cos => match elements {
                Elements::InPlace(x) => x.iter_mut().for_each(|x| *x = self.scalar(*x)),
                Elements::Apart { x, out } => {
                    for (x, out) in x.iter().zip(out) {
                        *out = self.scalar(*x);
                    }
                }
                Elements::Bf16 { x, out } => {
                    for (x, out) in x.iter().zip(out) {
                        *out = round::f32_to_bf16(self.scalar(round::bf16_to_f32(*x)));
                    }
                }
            },
        }
    }
}

/// A function as a type, so that each gets a loop of its own.
trait Function {
    /// Its value in each lane.
    fn call<V: Lanes>(x: V) -> V;
}

/// Expands to `struct Silu; impl Function for Silu { .. math::silu(x) }` for each name.
macro_rules! functions {
    ($($name:ident = $function:path;)*) => {$(
        struct $name;
        impl Function for $name {
            #[inline(always)]
            fn call<V: Lanes>(x: V) -> V {
                $function(x)
            }
        }
    )*};
}

functions! {
    Relu2 = math::relu2;
    Silu = math::silu;
    Sigmoid = math::sigmoid;
    Softplus = math::softplus;
    GeluTanh = math::gelu_tanh;
    GeluErf = math::gelu_erf;
    Exp = math::exp;
    Exp2 = math::exp2;
    Log = math::log;
    Log1p = math::log1p;
    Tanh = math::tanh;
    Erf = math::erf;
    Rsqrt = math::rsqrt;
}

/// What a function reads and writes.
enum Elements<'a> {
    InPlace(&'a mut [f32]),
    Apart { x: &'a [f32], out: &'a mut [f32] },
    Bf16 { x: &'a [u16], out: &'a mut [u16] },
}

struct Map<'a, F> {
    elements: Elements<'a>,
    function: PhantomData<F>,
}

impl<'a, F> Map<'a, F> {
    fn of(elements: Elements<'a>) -> Map<'a, F> {
        Map {
            elements,
            function: PhantomData,
        }
    }
}

impl<F: Function> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.elements {
            Elements::InPlace(x) => {
                for x in x.chunks_mut(S::LANES) {
                    store_part(simd, F::call(load_part(simd, x)), x);
                }
            }
            Elements::Apart { x, out } => {
                for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                    store_part(simd, F::call(load_part(simd, x)), out);
                }
            }
            Elements::Bf16 { x, out } => {
                let whole = x.len() / S::LANES * S::LANES;
                let (first, rest) = out.split_at_mut(whole);
                for (x, out) in x
                    .chunks_exact(S::LANES)
                    .zip(first.chunks_exact_mut(S::LANES))
                {
                    let y = round::bf16_round(F::call(simd.load_bf16(x)));
                    simd.store_u16(S::F::int_ushr::<16>(y.to_bits()), out);
                }
                for (x, out) in x[whole..].iter().zip(rest) {
                    *out = round::f32_to_bf16(F::call(round::bf16_to_f32(*x)));
                }
            }
        }
    }
}
