//! Tasks of the workspace: check, ci, tidy, codegen, sim, bench, measure.

fn main() {}
