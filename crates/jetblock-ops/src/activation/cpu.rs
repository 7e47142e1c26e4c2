//! The activations with lanes over elements, threads over runs of elements.

use std::marker::PhantomData;

use jetblock_numerics::{Lanes, math};
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
            self.apply(cpu, Some(&x[first..first + len]), out);
        });
        Ok(())
    }

    /// [`Activation::cpu`] with the input overwritten by the result.
    pub fn cpu_in_place(self, x: &mut [f32], cpu: &Cpu) {
        let _guard = fp_env::Guard::new();
        cpu.par_rows(x, 1, GRAIN, |_, x| self.apply(cpu, None, x));
    }

    /// One run of elements, from `x` or in place.
    fn apply(self, cpu: &Cpu, x: Option<&[f32]>, out: &mut [f32]) {
        match self {
            Activation::Relu2 => cpu.run(Map::<Relu2>::new(x, out)),
            Activation::Silu => cpu.run(Map::<Silu>::new(x, out)),
            Activation::Sigmoid => cpu.run(Map::<Sigmoid>::new(x, out)),
            Activation::Softplus => cpu.run(Map::<Softplus>::new(x, out)),
            Activation::GeluTanh => cpu.run(Map::<GeluTanh>::new(x, out)),
            Activation::GeluErf => cpu.run(Map::<GeluErf>::new(x, out)),
            Activation::Exp => cpu.run(Map::<Exp>::new(x, out)),
            Activation::Exp2 => cpu.run(Map::<Exp2>::new(x, out)),
            Activation::Log => cpu.run(Map::<Log>::new(x, out)),
            Activation::Log1p => cpu.run(Map::<Log1p>::new(x, out)),
            Activation::Tanh => cpu.run(Map::<Tanh>::new(x, out)),
            Activation::Erf => cpu.run(Map::<Erf>::new(x, out)),
            Activation::Rsqrt => cpu.run(Map::<Rsqrt>::new(x, out)),
            Activation::Sin | Activation::Cos => {
                if let Some(x) = x {
                    out.copy_from_slice(x);
                }
                out.iter_mut().for_each(|x| *x = self.scalar(*x));
            }
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

struct Map<'a, F> {
    x: Option<&'a [f32]>,
    out: &'a mut [f32],
    function: PhantomData<F>,
}

impl<'a, F> Map<'a, F> {
    fn new(x: Option<&'a [f32]>, out: &'a mut [f32]) -> Map<'a, F> {
        Map {
            x,
            out,
            function: PhantomData,
        }
    }
}

impl<F: Function> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let out = self.out.chunks_mut(S::LANES);
        match self.x {
            Some(x) => {
                for (x, out) in x.chunks(S::LANES).zip(out) {
                    store_part(simd, F::call(load_part(simd, x)), out);
                }
            }
            None => {
                for out in out {
                    store_part(simd, F::call(load_part(simd, out)), out);
                }
            }
        }
    }
}
