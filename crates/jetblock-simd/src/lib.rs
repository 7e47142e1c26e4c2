//! Virtual-lane vectors, run-time instruction-set dispatch, floating-point environment guard, thread pool.
