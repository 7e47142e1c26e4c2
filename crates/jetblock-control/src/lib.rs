//! The control: the same model with the usual schedule-dependent kernels, for measurements only.
