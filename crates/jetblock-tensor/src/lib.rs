//! Data types and digests shared by every layer above the kernels.
