//! Preflight: what works on the way to a server, step by step.
