//! History: what every series of every server was, for years, in one small file.

pub mod metric;
