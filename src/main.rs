//! Arguments, logs, exit code.

fn main() {}
