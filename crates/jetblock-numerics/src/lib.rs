//! The numeric contract: reductions, rounding, elementary functions, random numbers.
