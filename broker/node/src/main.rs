//! The `warren` broker and its command line.

fn main() {}
