//! Tasks of the workspace: check, ci, tidy, codegen, sim, bench, measure.

use anyhow::{Result, bail};

mod codegen;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["codegen"] => codegen::run(false),
        ["codegen", "--check"] => codegen::run(true),
        _ => bail!("usage: cargo xtask codegen [--check]"),
    }
}
